"""Which channel positions of all tensors of a graph must stay or go together, while the graph is read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import Tensor, fx

from kezuri.core.errors import NotFollowed
from kezuri.model.union_find import Ids, UnionFind

Axes = list[Ids]
"""One array a dimension of a tensor: the number of each position, negative where it can never be removed."""

Role = Literal["output", "input", "other"]

SINGLE = "a single channel"

Heads = Literal["whole", "width"]
"""What of an attention layer may go: heads, or channels within every head."""

Tag = tuple[str, int]
"""A factor a view splits off: the view's name, and the factor's stride in the tensor, in elements."""


@dataclass(frozen=True)
class Choices:
    """What the rules leave to the user.

    Attributes:
        heads: what of an attention layer may go.
        norms: whether channels that LayerNorm or GroupNorm average over may go, which changes the answers.
    """

    heads: Heads = "whole"
    norms: bool = False


DEFAULT = Choices()


class Channels:
    """Numbers positions, joins those that are one channel, and remembers why some may not be removed.

    A number >= 0 is a node of the union-find. A number < 0 stands for a reason, not for a node: joining with
    it pins the other side and leaves things pinned for the same reason apart.
    """

    def __init__(
        self, choices: Choices, preferred: frozenset[Tag] = frozenset(), most: float = math.inf
    ) -> None:
        """What no operation has been read for.

        Args:
            choices: what is left to the user.
            preferred: factors of views that may go, such as the heads of attention, rather than others.
            most: bytes that the positions may take.
        """
        self.choices = choices
        self.most = most
        self.preferred = preferred
        self.wanted: set[Tag] = set()
        self.sets = UnionFind()
        self.axes: dict[fx.Node, Axes | list[Axes]] = {}
        self.parameters: dict[fx.Node, str] = {}
        self.vanishing: set[fx.Node] = set()
        self.unknown: set[fx.Node] = set()
        self.numbers: dict[fx.Node, Ids] = {}
        self.tensors: dict[str, Axes] = {}
        self.roles: dict[tuple[str, int], Role] = {}
        self._held: dict[int, int] = {}
        self._bytes = 0
        self._places: dict[int, tuple[str, int]] = {}
        self._reasons: list[tuple[str, Tag | None]] = []
        self._numbers: dict[tuple[str, Tag | None], int] = {}
        self._pins: list[tuple[Ids, Ids]] = []
        self._suspects: list[tuple[Ids, Ids]] = []

    def fresh(self, size: int) -> Ids:
        """New positions that may be removed until something says otherwise."""
        return self.sets.add(size)

    def fixed(self, size: int, reason: str, tag: Tag | None = None) -> Ids:
        """Positions that can never be removed; `tag` says which factor of which view they are."""
        return np.full(size, -1 - self._number(reason, tag), dtype=np.int64)

    def tag(self, ids: Ids) -> Tag | None:
        """The tag these positions were fixed with, if all were with the same."""
        if not ids.size or ids[0] >= 0 or (ids != ids[0]).any():
            return None
        return self._reasons[-1 - int(ids[0])][1]

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

    def place(self, name: str, axes: Axes) -> None:
        """These are the positions of a parameter or buffer."""
        self.tensors[name] = axes
        self._places |= {id(ids): (name, dim) for dim, ids in enumerate(axes)}

    def use(self, ids: Ids, role: Role) -> None:
        """A product reads or writes these positions; of a parameter, turned or not, that is their role."""
        if id(ids) in self._places:
            self.set_role(*self._places[id(ids)], role)

    def hold(self, axes: Axes | list[Axes]) -> None:
        """These positions are kept until all is read."""
        for ids in axes:
            if isinstance(ids, list):
                self.hold(ids)
            elif ids.base is None and id(ids) not in self._held:
                self._held[id(ids)] = ids.nbytes
                self._bytes += ids.nbytes

    def expect(self, call: "Call") -> None:
        """What an operation gives fits in memory, as far as its shape tells.

        Raises:
            NotFollowed: it does not.
        """
        value = call.node.meta.get("val")
        parts = value if isinstance(value, list | tuple) else [value]
        more = 8 * sum(sum(sizes(part.shape)) for part in parts if isinstance(part, Tensor))
        if self._bytes + more > self.most:
            raise NotFollowed(
                f"the analysis would hold more than {self.most / 1e9:.3g} GB of channel positions at "
                f"{call.name} of {', '.join(map(str, call.input_shapes))}: "
                "give smaller example inputs"
            )

    def _number(self, reason: str, tag: Tag | None = None) -> int:
        key = reason, tag
        if key not in self._numbers:
            self._numbers[key] = len(self._reasons)
            self._reasons.append(key)
        return self._numbers[key]

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
        return {int(root): self._reasons[numbers[at]][0] for root, at in zip(found, first, strict=True)}


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
        """No tensor that goes in or comes out is empty."""
        values = [node.meta.get("val") for node in [self.node, *self.node.all_input_nodes]]
        flat = [item for value in values for item in (value if isinstance(value, list | tuple) else [value])]
        return all(0 not in sizes(item.shape) for item in flat if isinstance(item, Tensor))

    @property
    def gives_tensors(self) -> bool:
        """Its result is a tensor or several, not a size or nothing."""
        value = self.node.meta.get("val")
        return all(
            isinstance(item, Tensor) for item in (value if isinstance(value, list | tuple) else [value])
        )

    @property
    def shape(self) -> tuple[int, ...]:
        return sizes(self.node.meta["val"].shape)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of an operation that gives several tensors."""
        return [sizes(value.shape) for value in self.node.meta["val"]]

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        """Of every tensor that goes in."""
        values = (node.meta.get("val") for node in self.node.all_input_nodes)
        return [sizes(value.shape) for value in values if isinstance(value, Tensor)]

    def fits(self, axes: Axes | list[Axes]) -> bool:
        """These are as many positions as the operation's result has."""
        value = self.node.meta["val"]
        if isinstance(value, list | tuple):
            return [tuple(map(len, one)) for one in axes] == [sizes(item.shape) for item in value]
        return tuple(map(len, axes)) == sizes(value.shape)

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
        """The name of the parameter given as this argument, if it is one or a part of one."""
        value = self.arguments.get(argument)
        return self.channels.parameters.get(value) if isinstance(value, fx.Node) else None

    def vanishes(self, argument: Any) -> bool:
        """Whether a channel that is masked is zero in this tensor: an argument's name, or a node."""
        value = self.arguments.get(argument) if isinstance(argument, str) else argument
        return value in self.channels.vanishing

    def fixed(self, axes: Axes) -> bool:
        """Nothing of these positions can be removed."""
        return all((ids < 0).all() for ids in axes)


def sizes(shape: Sequence[Any]) -> tuple[int, ...]:
    """A shape in numbers; what may vary (the batch) as in the example."""
    return tuple(size if isinstance(size, int) else int(size.node.hint) for size in shape)


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
