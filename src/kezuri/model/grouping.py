"""Couplings out of joined positions, while nothing has been tried yet."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from kezuri.model.channels import Channels
from kezuri.model.families import Coupling, Couplings, Layer, Member
from kezuri.model.sites import PRUNABLE, TRANSPOSED, tensors_of
from kezuri.model.union_find import Ids

NONE = np.zeros((0, 0), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Grouped:
    """What the graph says.

    Attributes:
        couplings: those that no rule pinned are free.
        doubts: of free couplings, by name: a unit whose removal may break the model's code, and why.
        partial: whether only modules of the model could be followed.
    """

    couplings: Couplings
    doubts: Mapping[str, tuple[int, str]]
    partial: bool = False


def group(model: nn.Module, channels: Channels) -> Grouped:
    """The couplings of a model whose graph was followed."""
    shapes = {name: tuple(len(ids) for ids in axes) for name, axes in channels.tensors.items()}
    families = _Families(channels)
    layers = tuple(_layers(model, shapes, channels))
    return Grouped(Couplings(tuple(families.couplings), shapes, layers, channels.choices), families.doubts)


class _Families:
    """Couplings out of joined positions: sets that touch the same parameters equally often are one family."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        rank = {key: at for at, key in enumerate(channels.roles)}
        keys = [(name, dim) for name, axes in channels.tensors.items() for dim in range(len(axes))]
        self.keys = sorted(keys, key=lambda key: rank.get(key, len(rank)))
        self.doubts: dict[str, tuple[int, str]] = {}
        self.couplings: list[Coupling] = []
        suspected, taken = channels.suspected(), set[str]()
        for reason, roots, members in self._grouped():
            roles = [channels.roles.get(self.keys[at], "other") for at, _ in members]
            if set(roles) == {"other"}:
                continue
            parts = tuple(
                Member(*self.keys[at], positions, role)
                for (at, positions), role in zip(members, roles, strict=True)
            )
            coupling = Coupling(_name(parts, taken), len(roots), parts, reason)
            self.couplings.append(coupling)
            doubtful = [(unit, suspected[root]) for unit, root in enumerate(roots) if root in suspected]
            if doubtful and reason is None:
                self.doubts[coupling.name] = doubtful[0]

    def _grouped(self) -> Iterator[tuple[str | None, list[int], list[tuple[int, Ids]]]]:
        """Each family: its reason, the root of each unit, and the positions (width, k) in each member."""
        roots, members, positions = self._entries()
        if not len(roots):
            return
        starts = np.flatnonzero(np.r_[True, roots[1:] != roots[:-1]])
        blocked = self.channels.blocked()
        families: dict[tuple[bytes, str | None], list[int]] = {}
        ends = np.r_[starts[1:], len(roots)]
        for unit, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            key = members[start:end].tobytes(), blocked.get(int(roots[start]))
            families.setdefault(key, []).append(unit)
        for (signature, reason), units in families.items():
            touched = np.frombuffer(signature, dtype=np.int64)
            rows = positions[starts[units][:, None] + np.arange(len(touched))]
            order = np.lexsort(rows.T[::-1])
            rows, ids = rows[order], roots[starts[units]][order]
            at, count = np.unique(touched, return_counts=True)
            columns = np.split(rows, np.cumsum(count)[:-1], axis=1)
            yield reason, ids.tolist(), list(zip(at.tolist(), columns, strict=True))

    def _entries(self) -> tuple[Ids, Ids, Ids]:
        """Root, member and position of every position of every parameter, sorted."""
        if not self.keys:
            return (np.zeros(0, np.int64),) * 3
        axes = [self.channels.tensors[name][dim] for name, dim in self.keys]
        sizes = [len(ids) for ids in axes]
        roots = self.channels.sets.roots(np.concatenate(axes))
        members = np.repeat(np.arange(len(axes)), sizes)
        positions = np.concatenate([np.arange(size) for size in sizes])
        order = np.lexsort((positions, members, roots))
        return roots[order], members[order], positions[order]


def _name(members: tuple[Member, ...], taken: set[str]) -> str:
    """The first producer; a second family of the same layer gets `#2`."""
    producer = next((member.layer for member in members if member.role == "output"), None)
    name = wanted = producer or f"{members[0].layer} input"
    number = 1
    while name in taken:
        number += 1
        name = f"{wanted}#{number}"
    taken.add(name)
    return name


def _layers(model: nn.Module, shapes: dict[str, tuple[int, ...]], channels: Channels) -> list[Layer]:
    """Every layer that gives channels, in execution order; those that were not reached last.

    Weights outside of convolutions and linear layers (recurrent, embedded, loose) are layers of their own.
    """
    names = {id(tensor): name for name, tensor in tensors_of(model).items()}
    order = {name: at for at, name in enumerate(dict.fromkeys(name for name, _ in channels.roles))}
    layers = []
    for name, module in model.named_modules():
        if not isinstance(module, PRUNABLE):
            continue
        dim = 1 if isinstance(module, TRANSPOSED) else 0
        parameter = names.get(id(module._parameters.get("weight")))
        width = module.out_features if isinstance(module, nn.Linear) else module.out_channels
        seen = parameter in shapes
        per = width // shapes[parameter][dim] if seen and parameter is not None else 1
        groups = getattr(module, "groups", 1)
        depthwise = groups > 1 and groups == module.in_channels
        layers.append(Layer(name, width, parameter if seen else None, dim, per, depthwise))
    known = {layer.parameter for layer in layers}
    for (parameter, dim), role in channels.roles.items():
        if role == "output" and parameter not in known:
            owner = Member(parameter, dim, NONE, role).layer
            layers.append(Layer(owner, shapes[parameter][dim], parameter, dim, 1))
    return sorted(layers, key=lambda layer: order.get(layer.parameter or "", len(order)))
