"""Which channel positions of all tensors of a graph must stay or go together, while the graph is read."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import fx

from kezuri.model.union_find import Ids, UnionFind

Axes = list[Ids]
"""One array a dimension of a tensor: the number of each position, negative where it can never be removed."""

Role = Literal["output", "input", "other"]

SINGLE = "a single channel"


class Channels:
    """Numbers positions, joins those that are one channel, and remembers why some may not be removed.

    A number >= 0 is a node of the union-find. A number < 0 stands for a reason, not for a node: joining with
    it pins the other side and leaves things pinned for the same reason apart.
    """

    def __init__(self) -> None:
        self.sets = UnionFind()
        self.axes: dict[fx.Node, Axes | list[Axes]] = {}
        self.parameters: dict[fx.Node, str] = {}
        self.tensors: dict[str, Axes] = {}
        self.roles: dict[tuple[str, int], Role] = {}
        self._reasons: list[str] = []
        self._pins: list[tuple[Ids, Ids]] = []
        self._suspects: list[tuple[Ids, Ids]] = []

    def fresh(self, size: int) -> Ids:
        """New positions that may be removed until something says otherwise."""
        return self.sets.add(size)

    def fixed(self, size: int, reason: str) -> Ids:
        """Positions that can never be removed."""
        return np.full(size, -1 - self._number(reason), dtype=np.int64)

    def join(self, left: Ids, right: Ids) -> None:
        """`left[i]` and `right[i]` are the same channel."""
        if left is right:
            return
        free_left, free_right = left >= 0, right >= 0
        both = free_left & free_right
        self.sets.join(left[both], right[both])
        for one, other in ((left, right), (right, left)):
            pinned = (one >= 0) & (other < 0)
            if pinned.any():
                self._pins.append((one[pinned], -1 - other[pinned]))

    def pin(self, ids: Ids, reason: str) -> None:
        """These positions may not be removed."""
        self._note(self._pins, ids, reason)

    def suspect(self, ids: Ids, reason: str) -> None:
        """Removing these positions may break the model's own code; a trial has to show it."""
        self._note(self._suspects, ids, reason)

    def blocked(self) -> dict[int, str]:
        """The first reason of every set (by its root) that may not be removed."""
        return self._resolve(self._pins)

    def suspected(self) -> dict[int, str]:
        """The first reason of every set (by its root) that needs a trial."""
        return self._resolve(self._suspects)

    def set_role(self, parameter: str | None, dim: int, role: Role) -> None:
        """What a layer uses a dimension of its weight for; the first use counts."""
        if parameter is not None:
            self.roles.setdefault((parameter, dim), role)

    def _number(self, reason: str) -> int:
        if reason not in self._reasons:
            self._reasons.append(reason)
        return self._reasons.index(reason)

    def _note(self, notes: list[tuple[Ids, Ids]], ids: Ids, reason: str) -> None:
        free = ids[ids >= 0]
        if free.size:
            notes.append((free, np.full(free.size, self._number(reason), dtype=np.int64)))

    def _resolve(self, notes: list[tuple[Ids, Ids]]) -> dict[int, str]:
        if not notes:
            return {}
        roots = self.sets.roots(np.concatenate([ids for ids, _ in notes]))
        numbers = np.concatenate([numbers for _, numbers in notes])
        found, first = np.unique(roots, return_index=True)
        return {int(root): self._reasons[numbers[at]] for root, at in zip(found, first, strict=True)}


@dataclass(frozen=True)
class Call:
    """One operation of the graph: its arguments by name, and the positions of its tensor arguments."""

    node: fx.Node
    channels: Channels
    arguments: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", _arguments(self.node))

    @property
    def name(self) -> str:
        """`conv2d` for `aten.conv2d.default`; in-place operations lose their final underscore."""
        return operation(self.node).removesuffix("_")

    @property
    def ordinary(self) -> bool:
        """It gives tensors, and none that goes in or comes out is empty."""
        values = [node.meta.get("val") for node in [self.node, *self.node.all_input_nodes]]
        flat = [item for value in values for item in (value if isinstance(value, list | tuple) else [value])]
        return all(getattr(item, "numel", lambda: 0)() > 0 for item in flat)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.node.meta["val"].shape)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of an operation that gives several tensors."""
        return [tuple(value.shape) for value in self.node.meta["val"]]

    def fits(self, axes: Axes | list[Axes]) -> bool:
        """These are as many positions as the operation's result has."""
        value = self.node.meta["val"]
        if isinstance(value, list | tuple):
            return [[len(ids) for ids in one] for one in axes] == [list(item.shape) for item in value]
        return [len(ids) for ids in axes] == list(value.shape)

    def axes(self, argument: str) -> Axes:
        """The positions of a tensor argument; empty when it is absent."""
        return self.axes_of(self.arguments.get(argument))

    def axes_of(self, value: Any) -> Axes:
        found = self.channels.axes.get(value, []) if isinstance(value, fx.Node) else []
        return list(found)  # type: ignore[arg-type]

    def inputs(self) -> list[Axes]:
        """The positions of every tensor that goes in."""
        return [self.axes_of(node) for node in self.node.all_input_nodes if node in self.channels.axes]

    def parameter(self, argument: str) -> str | None:
        """The name of the parameter given as this argument, if it is one."""
        value = self.arguments.get(argument)
        return self.channels.parameters.get(value) if isinstance(value, fx.Node) else None


def operation(node: fx.Node) -> str:
    """The name of a node's operation without namespace and overload."""
    packet = getattr(node.target, "_overloadpacket", node.target)
    return str(getattr(packet, "__name__", packet)).rpartition(".")[2]


def _arguments(node: fx.Node) -> dict[str, Any]:
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {str(at): value for at, value in enumerate(node.args)} | dict(node.kwargs)
    names = [argument.name for argument in schema.arguments]
    defaults = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    return defaults | dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
