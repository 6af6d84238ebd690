"""Which channels of a model must go together, and which cannot go, with the reason."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from time import monotonic
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from kezuri.core.errors import UsageError
from kezuri.model.channels import DEFAULT, SINGLE, Channels, Choices
from kezuri.model.exported import example_batch, trace
from kezuri.model.families import Coupling, Couplings, Layer, Member, Row
from kezuri.model.proof import Trial, cut
from kezuri.model.sites import PRUNABLE, TRANSPOSED, tensors_of
from kezuri.model.union_find import Ids

__all__ = ["Choices", "Coupling", "Couplings", "Member", "Row", "couple", "protected_parameters"]


Result = Literal["module", "program", "auto"]
"""What a cut may give: the user's own class, a rewritten program, or the class where it can be."""

TRIAL_SECONDS = 60.0
NONE = np.zeros((0, 0), dtype=np.int64)


def couple(
    model: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...],
    *,
    protect: Sequence[str] = (),
    result: Result = "module",
    choices: Choices = DEFAULT,
    seconds: float = TRIAL_SECONDS,
) -> Couplings:
    """Finds what has to be removed together: the couplings of a model.

    The model is traced with torch.export; each operation says which channel positions of its inputs and
    outputs are one channel, and those that no operation ties to a fixed size may be removed. Where the
    model's code may hold a size as a number, one unit is cut from a copy to see whether it still runs.

    Args:
        model: left exactly as it is.
        example_inputs: a batch such as the model takes.
        protect: names or patterns (`features.*`) of modules whose outputs stay whole.
        result: with "module", what the model's own code cannot lose is blocked; with "auto" it stays free,
            with `Coupling.rewrite` as the reason why a cut of it gives a rewritten program; with "program"
            nothing is tried.
        choices: whether heads or head widths go, and whether norms may lose channels.
        seconds: for trial cuts; what was not tried by then counts as failed.

    Returns:
        every coupling in execution order, the blocked ones with their reason.

    Raises:
        ModelError: torch.export cannot follow the model; the line it stopped at is named.
        UsageError: a pattern in `protect` fits no module; near names are listed.
        ProofFailed: a trial cut was needed and the model's answers are random or not finite.
    """
    protected = protected_parameters(model, protect)
    inputs = example_batch(model, example_inputs)
    channels = trace(model, inputs, choices)
    shapes = {name: tuple(len(ids) for ids in axes) for name, axes in channels.tensors.items()}
    families = _Families(channels)
    layers = tuple(_layers(model, shapes, channels))
    items = tuple(_guarded(item, protected) for item in families.couplings)
    found = Couplings(items, shapes, layers, choices)
    doubts = {name: doubt for name, doubt in families.doubts.items() if found.named(name).reason is None}
    if result == "program":
        failed = {name: reason for name, (_, reason) in doubts.items()}
    else:
        failed = _tried(model, found, doubts, inputs, seconds)
    return replace(found, items=tuple(_judged(item, failed.get(item.name), result) for item in items))


def _judged(item: Coupling, why: str | None, result: Result) -> Coupling:
    """The coupling after its trial."""
    if why is None:
        return item
    return replace(item, reason=why) if result == "module" else replace(item, rewrite=why)


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
        seen = parameter in order and parameter in shapes
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


def _tried(
    model: nn.Module,
    found: Couplings,
    doubts: Mapping[str, tuple[int, str]],
    inputs: tuple[Tensor, ...],
    seconds: float,
) -> dict[str, str]:
    """The doubtful couplings of which cutting one unit breaks or changes the model, with why.

    Of couplings that look alike one is tried first, and stands for the others when it fails.
    """
    kinds: dict[tuple[object, ...], list[str]] = {}
    for name, (_, reason) in doubts.items():
        kinds.setdefault((reason, *_kind(model, found.named(name))), []).append(name)
    failed = dict[str, str]()
    deadline = monotonic() + seconds
    for chosen in (
        [names[0] for names in kinds.values()],
        [n for names in kinds.values() for n in names[1:]],
    ):
        kept = {}
        for name in chosen:
            unit, width = doubts[name][0], found.named(name).width
            if name not in failed:
                kept[name] = torch.arange(width) != unit
        rejected = cut(model, found, kept, inputs, trial=Trial(deadline)).rejected if kept else {}
        for name, why in rejected.items():
            alike = next(names for names in kinds.values() if name in names)
            for other in alike if name == alike[0] else [name]:
                failed.setdefault(other, f"{doubts[other][1]} ({why})")
    return failed


def _kind(model: nn.Module, coupling: Coupling) -> list[tuple[object, ...]]:
    """What a coupling looks like: which kinds of modules hold it, and how."""
    return [
        (
            type(model.get_submodule(member.parameter.rpartition(".")[0])),
            member.parameter.rpartition(".")[2],
            member.dim,
            member.role,
        )
        for member in coupling.members
    ]


def _guarded(coupling: Coupling, protected: set[str]) -> Coupling:
    """The coupling, blocked if it has a single unit or belongs to a protected module."""
    if coupling.reason is not None:
        return coupling
    if any(member.parameter in protected for member in coupling.members if member.role != "input"):
        return replace(coupling, reason="protected")
    if coupling.width > 1:
        return coupling
    single = all(member.positions.shape[1] == 1 for member in coupling.members if member.role == "output")
    return replace(coupling, reason=SINGLE if single else "its channels can only go all at once")


def protected_parameters(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    """The parameters of modules that a pattern fits, and of what is inside them.

    Raises:
        UsageError: a pattern fits no module; near names are listed.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    names = {id(tensor): name for name, tensor in tensors_of(model).items()}
    protected = set()
    for pattern in patterns:
        fitting = [module for name, module in modules.items() if fnmatchcase(name, pattern)]
        if not fitting:
            near = get_close_matches(pattern, modules, n=3) or list(modules)[:8]
            raise UsageError(f"protect: no module is named {pattern!r}; near: {', '.join(near)}")
        for module in fitting:
            protected |= {names[id(tensor)] for tensor in tensors_of(module).values()}
    return protected
