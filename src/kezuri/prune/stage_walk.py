"""Running a program's stages for many masks: what they have in common is computed once."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Self

import torch
from torch import Tensor

from kezuri.model.stages import Rows, Stage, State
from kezuri.prune.judging import Sheet

BLOCK = 16
"""Rows of a first convolution that are computed together: always so many, so that who shares a block does not
change how a row is rounded."""
MASKS = 4
"""How many masks at least are to have room among the states that are kept."""


@dataclass(frozen=True, eq=False)
class Masking:
    """A model under one mask.

    Attributes:
        tensors: the weights, and whatever else is this mask's own, by name.
        digests: tell the mask of each changing weight from others, by name.
    """

    tensors: Mapping[str, Tensor]
    digests: Mapping[str, bytes]


class Walk:
    """The stages of one program, and what they answered before.

    Args:
        stages: of the program.
        tensors: those that are handed in and no mask's own, by name.
        memory: bytes of answers that may be kept from one call to the next.
    """

    def __init__(self, stages: Sequence[Stage], tensors: Mapping[str, Tensor], memory: int) -> None:
        self._stages, self._tensors = stages, tensors
        self._kept = Kept(memory)

    def run(self, maskings: Sequence[Masking], sheet: Sheet) -> Iterator[list[State]]:
        """The last states of all masks, for one batch after the other.

        Masks that begin alike are run one after the other. What is kept changes no answer.
        """
        chains = [self._chain(masking) for masking in maskings]
        order = sorted(range(len(chains)), key=chains.__getitem__)
        rows = self._by_rows(maskings)
        self._kept.ask_for(sheet)
        for number, batch in enumerate(sheet.batches):
            path: list[tuple[bytes, State | None]] = []
            last: dict[int, State] = {}
            if rows is not None:
                rows.forget()
            for place in order:
                chain = chains[place]
                self._resume(path, chain, number)
                for at in range(len(path), len(chain)):
                    before = path[-1][1] if path else (batch.images,)
                    assert before is not None
                    if rows is not None and rows.at == at:
                        state = rows.state(before, place)
                    else:
                        stage = self._stages[at]
                        state = stage.run(*before, *self._handed(stage, maskings[place]))
                    path.append((chain[at], state))
                    self._kept.keep(number, at, chain[at], state, images=len(batch.images))
                answer = path[-1][1]
                assert answer is not None
                last[place] = answer
            yield [last[place] for place in range(len(maskings))]

    def _resume(self, path: list[tuple[bytes, State | None]], chain: Sequence[bytes], number: int) -> None:
        """Leaves on the path of the last mask what holds for the next, and adds what is kept."""
        while path and (path[-1][0] != chain[len(path) - 1] or path[-1][1] is None):
            path.pop()
        for at in reversed(range(len(path), len(chain))):
            state = self._kept.find(number, at, chain[at])
            if state is not None:
                path += [(link, None) for link in chain[len(path) : at]]
                path.append((chain[at], state))
                return

    def _chain(self, masking: Masking) -> list[bytes]:
        """What tells the masks up to each stage from others."""
        links = [b""]
        for stage in self._stages:
            own = [masking.digests[name] for name in stage.changing]
            links.append(blake2b(b"".join([links[-1], *own]), digest_size=16).digest() if own else links[-1])
        return links[1:]

    def _handed(self, stage: Stage, masking: Masking) -> list[Tensor]:
        return [
            masking.tensors[name] if name in masking.tensors else self._tensors[name] for name in stage.given
        ]

    def _by_rows(self, maskings: Sequence[Masking]) -> "RowTable | None":
        for at, stage in enumerate(self._stages):
            if stage.rows is not None:
                return RowTable.of(at, stage, stage.rows, [self._named(stage, one) for one in maskings])
        return None

    def _named(self, stage: Stage, masking: Masking) -> dict[str, Tensor]:
        return dict(zip(stage.given, self._handed(stage, masking), strict=True))


@dataclass(eq=False)
class RowTable:
    """A first convolution for all masks: each row of its weight that any of them has, once.

    Attributes:
        at: which stage it is.
        stage: itself.
        rows: what its rows are.
        blocks: the tensors to hand in for each block of rows.
        places: where in the table the rows of each mask are, (masks, rows) int64.
    """

    at: int
    stage: Stage
    rows: Rows
    blocks: Sequence[Sequence[Tensor]]
    places: Tensor
    _state: State | None = None

    @classmethod
    def of(cls, at: int, stage: Stage, rows: Rows, given: Sequence[Mapping[str, Tensor]]) -> Self:
        """Sorts out the rows of all masks.

        Args:
            given: what is handed in for each mask, by name.
        """
        known: dict[bytes, int] = {}
        places, first = list[list[int]](), list[Tensor]()
        shape = given[0][rows.weight].shape
        for own in given:
            flat = own[rows.weight].flatten(1)
            if rows.bias is not None:
                flat = torch.cat([flat, own[rows.bias][:, None]], 1)
            keys = [row.tobytes() for row in flat.cpu().numpy()]
            for row, key in enumerate(keys):
                if key not in known:
                    known[key] = len(known)
                    first.append(flat[row])
            places.append([known[key] for key in keys])
        width = max(BLOCK, shape[0])
        missing = -len(first) % width
        table = torch.stack(first + [torch.zeros_like(first[0])] * missing)
        blocks = []
        for block in torch.split(table, width):
            named = {rows.weight: block[:, : shape[1:].numel()].reshape(width, *shape[1:])}
            if rows.bias is not None:
                named[rows.bias] = block[:, -1].contiguous()
            blocks.append([named[name] for name in stage.given])
        return cls(at, stage, rows, blocks, torch.tensor(places, device=table.device))

    def forget(self) -> None:
        """The next state is of other images."""
        self._state = None

    def state(self, before: State, mask: int) -> State:
        """The state after the stage, of one mask."""
        at = self.rows.result
        if self._state is None:
            states = [self._run(before, block) for block in self.blocks]
            table = torch.cat([state[at] for state in states], 1)
            self._state = (*states[0][:at], table, *states[0][at + 1 :])
        own = self._state[at].index_select(1, self.places[mask])
        return (*self._state[:at], own, *self._state[at + 1 :])

    def _run(self, before: State, block: Sequence[Tensor]) -> State:
        """The state after the stage for a block of rows; of fewer images at once where rows are more."""
        width = self.places.shape[1]
        wide = max(BLOCK, width)
        if len(before) > 1 or wide == width:
            return self.stage.run(*before, *block)
        [images] = before
        parts = [
            self.stage.run(part, *block) for part in torch.split(images, max(1, len(images) * width // wide))
        ]
        return tuple(torch.cat(values) for values in zip(*parts, strict=True))


class Kept:
    """States of batches that are asked for again and again, the last used ones, as far as memory goes.

    Of images that are asked for once nothing is kept. Where not all stages have room, those go first that
    take the least: late ones, whose masks hold most weights.

    Args:
        memory: bytes, in all.
    """

    def __init__(self, memory: int) -> None:
        self._memory, self._held = memory, 0
        self._states: OrderedDict[tuple[object, ...], tuple[State, int]] = OrderedDict()
        self._asked: set[object] = set()
        self._sizes: dict[int, float] = {}
        self._name: object = None
        self._roomy: set[int] = set()

    def ask_for(self, sheet: Sheet) -> None:
        """All that follows is about these images."""
        self._name, self._roomy = sheet.name, set()
        if sheet.name in self._asked:
            room = self._memory / MASKS
            for at in sorted(self._sizes, key=self._sizes.__getitem__):
                room -= self._sizes[at] * sheet.images
                if room >= 0:
                    self._roomy.add(at)
        self._asked.add(sheet.name)

    def find(self, number: int, at: int, link: bytes) -> State | None:
        """The state after stage `at`, of the masks that `link` stands for, on batch `number`."""
        key = (self._name, number, at, link)
        if key not in self._states:
            return None
        self._states.move_to_end(key)
        return self._states[key][0]

    def keep(self, number: int, at: int, link: bytes, state: State, *, images: int) -> None:
        """Keeps such a state if there is room."""
        size = sum(value.untyped_storage().nbytes() for value in state if isinstance(value, Tensor))
        self._sizes.setdefault(at, size / images)
        if at in self._roomy:
            key = (self._name, number, at, link)
            self._held += size - self._states.pop(key, (state, 0))[1]
            self._states[key] = (state, size)
        while self._held > self._memory:
            _, (_, freed) = self._states.popitem(last=False)
            self._held -= freed
