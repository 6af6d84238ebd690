"""Views: the same elements under other dimensions."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kezuri.model.channels import SINGLE, Axes, Call, Channels, Tag
from kezuri.model.coupling_rule import rule
from kezuri.model.union_find import Ids

LITERAL_VIEW = "literal size in view"


@rule("view", "reshape", "_unsafe_view")
def view(channels: Channels, call: Call) -> Axes:
    """Sizes written out may be literal; -1 follows the tensor."""
    asked = call.arguments.get("size", call.arguments.get("shape"))
    if not isinstance(asked, list | tuple):
        return call.axes("self")
    return _reshaped(channels, call, asked)


@rule("view_as", "reshape_as")
def view_as(channels: Channels, call: Call) -> Axes:
    """The sizes follow the other tensor."""
    result = _reshaped(channels, call, [-1] * len(call.shape))
    for ids, own in zip(result, call.axes("other"), strict=True):
        channels.join(ids, own)
    return result


@rule("flatten")
def flatten(channels: Channels, call: Call) -> Axes:
    """Its sizes follow the tensor."""
    return _reshaped(channels, call, [-1] * len(call.shape))


@rule("unflatten")
def unflatten(channels: Channels, call: Call) -> Axes:
    """Only the dimension that is split has sizes written out."""
    dim, sizes = call.arguments["dim"] % len(call.axes("self")), list(call.arguments["sizes"])
    behind = len(call.shape) - dim - len(sizes)
    return _reshaped(channels, call, [-1] * dim + sizes + [-1] * behind)


def _reshaped(channels: Channels, call: Call, asked: Sequence[Any]) -> Axes:
    """Splits every dimension into the factors both shapes share, and puts them together anew.

    Args:
        channels: where positions are joined and pinned.
        call: the view.
        asked: the sizes as written, -1 where they follow from the tensor.
    """
    x, shape = call.axes("self"), call.shape
    result: Axes = []
    behind = math.prod(shape)
    for sources, targets in _blocks([len(ids) for ids in x], shape):
        sizes = [shape[dim] for dim in targets]
        behind //= math.prod(sizes)
        factors = _factors([len(x[dim]) for dim in sources], sizes)
        if factors is None:
            for dim in sources:
                channels.pin(x[dim], LITERAL_VIEW)
            result.extend(channels.fixed(size, LITERAL_VIEW) for size in sizes)
            continue
        wanted = [asked[dim] for dim in targets]
        block = _Block(channels, call.node.name, factors, _grouped(factors, sizes), behind, wanted)
        result.extend(block.put_together(block.take_apart([x[dim] for dim in sources]), sizes))
    return result


@dataclass(frozen=True)
class _Block:
    """A run of dimensions that a view turns into another run.

    Attributes:
        channels: where positions are joined and pinned.
        view: the view's name.
        factors: sizes both runs are products of, in order.
        targets: the factors of each dimension of the new run.
        behind: elements behind one step of the last factor.
        asked: the sizes of the new run as written, -1 where they follow from the tensor.
    """

    channels: Channels
    view: str
    factors: list[int]
    targets: list[list[int]]
    behind: int
    asked: Sequence[Any]

    def take_apart(self, sources: Axes) -> Axes:
        """The positions of each factor; of several in one dimension, a single one stays free."""
        result = list[Ids]()
        strides = [self.behind * math.prod(self.factors[at + 1 :]) for at in range(len(self.factors))]
        for ids, factors in zip(sources, _grouped(self.factors, map(len, sources)), strict=True):
            if len(factors) < 2:
                result.extend([ids] * len(factors))
                continue
            tags = [(self.view, stride) for stride in strides[len(result) : len(result) + len(factors)]]
            carriers = self._carriers(ids, factors)
            kept = carriers[0] if len(carriers) == 1 else self._survivor(tags, first=len(result))
            for at, size in enumerate(factors):
                result.append(
                    _split(self.channels, ids, factors, at)
                    if at == kept
                    else self.channels.fixed(size, LITERAL_VIEW, tags[at] if at in carriers else None)
                )
        return result

    def _carriers(self, ids: Ids, factors: list[int]) -> list[int]:
        """The factors along which one meets different channels; the others only repeat them."""
        free = ids >= 0
        if not free.any():
            return []
        grid = ids.copy()
        grid[free] = self.channels.sets.roots(ids[free])
        grid = grid.reshape(factors)
        return [at for at in range(len(factors)) if (grid != grid.take([0], axis=at)).any()]

    def put_together(self, parts: Axes, sizes: Sequence[int]) -> Axes:
        """The positions of the new dimensions."""
        result, at = list[Ids](), 0
        for size, asked, factors in zip(sizes, self.asked, self.targets, strict=True):
            merged = _merged(self.channels, parts[at : at + len(factors)]) if factors else self._one()
            at += len(factors)
            if asked != -1:
                self.channels.suspect(merged, LITERAL_VIEW)
            result.append(merged if len(merged) == size else self.channels.fixed(size, LITERAL_VIEW))
        return result

    def _one(self) -> Ids:
        return self.channels.fixed(1, SINGLE)

    def _survivor(self, tags: list[Tag], first: int) -> int:
        """The one that is preferred; else the factor written as -1, else the innermost."""
        preferred = [at for at, tag in enumerate(tags) if tag in self.channels.preferred]
        follows = [
            asked == -1 for asked, factors in zip(self.asked, self.targets, strict=True) for _ in factors
        ]
        written = [at for at in range(len(tags)) if follows[first + at]]
        return preferred[0] if preferred else written[0] if len(written) == 1 else len(tags) - 1


def _split(channels: Channels, ids: Ids, sizes: Sequence[int], at: int) -> Ids:
    rows = np.moveaxis(ids.reshape(sizes), at, 0).reshape(sizes[at], -1)
    for column in rows.T[1:]:
        channels.join(rows[:, 0], column)
    return rows[:, 0].copy()


def _merged(channels: Channels, parts: Axes) -> Ids:
    if len(parts) == 1:
        return parts[0]
    free = [at for at, ids in enumerate(parts) if (ids >= 0).any()]
    for at in free[1:]:
        channels.pin(parts[at], "two dimensions of channels are merged")
    named = [at for at, ids in enumerate(parts) if channels.tag(ids) is not None and len(ids) > 1]
    kept = (free or named or [0])[0]
    sizes = [len(ids) for ids in parts]
    grid = np.broadcast_to(np.expand_dims(parts[kept], [d for d in range(len(parts)) if d != kept]), sizes)
    return np.ascontiguousarray(grid).ravel()


def _grouped(factors: Sequence[int], sizes: Iterable[int]) -> list[list[int]]:
    """The factors of each size in turn; a size of 1 has none."""
    groups, at = list[list[int]](), 0
    for size in sizes:
        start, product = at, 1
        while product < size:
            product *= factors[at]
            at += 1
        groups.append(list(factors[start:at]))
    return groups


def _factors(before: Sequence[int], after: Sequence[int]) -> list[int] | None:
    """The sizes both shapes are products of, in order; None where they do not nest.

    Dimensions of size 1 are left out: they hold no choice.
    """
    ends = set[int]()
    total = math.prod(before)
    for sizes in (before, after):
        product = 1
        for size in sizes:
            product *= size
            ends.add(product)
    product, factors = 1, list[int]()
    for end in sorted(ends - {1}):
        if end % product:
            return None
        factors.append(end // product)
        product = end
    return factors if product == total else None


def _blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The finest cut of two shapes into runs of dimensions with equal numbers of elements."""
    blocks = []
    i = j = 0
    while i < len(before) and j < len(after):
        start, left, right = (i, j), before[i], after[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * before[i], i + 1
            else:
                right, j = right * after[j], j + 1
        blocks.append((list(range(start[0], i)), list(range(start[1], j))))
    blocks.append((list(range(i, len(before))), list(range(j, len(after)))))
    return blocks
