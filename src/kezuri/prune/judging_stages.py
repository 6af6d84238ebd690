"""Judging masks with what comes before the first mask that differs computed once."""

import copy
from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor, nn

from kezuri.core.errors import ModelError
from kezuri.data.parts import TensorPart
from kezuri.model.modes import device_of
from kezuri.model.program import as_program
from kezuri.model.sites import tensors_of
from kezuri.model.stages import in_stages, measuring_stages, statistics_of
from kezuri.prune.judging import MEMORY, Count, Masked, Sheet
from kezuri.prune.space import Space
from kezuri.prune.stage_walk import Masking, Walk

TOLERANCE = 1e-4


class StagedWay:
    """The model as stages, of which only those are run whose answer no other mask has in common.

    No answer depends on what was kept, or on which masks are asked for together.

    Args:
        model: stays as it is.
        space: says which weights a choice of units keeps.
        image_shape: (C, H, W).
        device: where the work is done.
        norms: the images that batch statistics are re-estimated on for each mask; None to leave them.
        memory: bytes of answers that may be kept for images that are asked for again.

    Raises:
        ModelError: torch.export cannot follow the model, or does not get the same answers.
        ShapeError: the space is not of this model.
    """

    def __init__(
        self,
        model: nn.Module,
        space: Space,
        image_shape: tuple[int, int, int],
        device: torch.device,
        *,
        norms: Sheet | None = None,
        memory: int = 2 * MEMORY,
    ) -> None:
        self._masked = Masked(model, space, device)
        example = torch.zeros(2, *image_shape, device=device_of(model))
        program = as_program(model, (example,)).to(device)
        tensors, names = tensors_of(program, aliases=True), list(space.weights)
        self._statistics = {name: tensors[name] for name in statistics_of(program)} if norms else {}
        self._answering = Walk(in_stages(program, names, given=list(self._statistics)), tensors, memory)
        self._norms = norms if self._statistics else None
        if self._norms is not None:
            stages, self._measured = measuring_stages(program, names)
            self._measuring = Walk(stages, tensors, memory)
        self._prove(model, image_shape, device)

    def tally(self, kept: Tensor, sheet: Sheet) -> Tensor:
        """See `Way.tally`."""
        some = max(1, MEMORY // self._masked.bytes)
        return torch.cat([self._tally(part, sheet) for part in torch.split(kept, some)])

    def _tally(self, kept: Tensor, sheet: Sheet) -> Tensor:
        """The same for as many masks as have room."""
        maskings = self._maskings(kept)
        if self._norms is not None:
            maskings = self._normed(maskings, self._norms)
        count = Count()
        for states, batch in zip(self._answering.run(maskings, sheet), sheet.batches, strict=True):
            count.add(torch.stack([answer for (answer,) in states]), batch.targets)
        return count.sums()

    def _maskings(self, kept: Tensor) -> list[Masking]:
        """The weights under each mask; equal ones are held once."""
        held: dict[tuple[str, bytes], Tensor] = {}
        maskings = []
        for one in kept:
            masks = self._masked.masks(one)
            digests = {name: _digest(mask) for name, mask in masks.items()}
            for name, mask in masks.items():
                if (name, digests[name]) not in held:
                    held[name, digests[name]] = self._masked.whole[name] * mask
            maskings.append(Masking({name: held[name, digests[name]] for name in masks}, digests))
        return maskings

    def _normed(self, maskings: Sequence[Masking], sheet: Sheet) -> list[Masking]:
        """The same with the batch statistics that each mask has on some images."""
        found: list[dict[str, list[Tensor]]] = [{name: [] for name in self._measured} for _ in maskings]
        for states in self._measuring.run(maskings, sheet):
            for own, state in zip(found, states, strict=True):
                for name, value in zip(self._measured, state, strict=True):
                    own[name].append(value)
        means = [{name: torch.stack(values).mean(0) for name, values in own.items()} for own in found]
        return [
            Masking({**masking.tensors, **own}, masking.digests)
            for masking, own in zip(maskings, means, strict=True)
        ]

    @torch.inference_mode()
    def _prove(self, model: nn.Module, image_shape: tuple[int, int, int], device: torch.device) -> None:
        """Raises ModelError unless the stages answer as the model does, also for another number of images."""
        images = torch.randn(3, *image_shape, generator=torch.Generator().manual_seed(0))
        sheet = Sheet(TensorPart(images, torch.zeros(3, dtype=torch.int64)), ("proof",), 3, device)
        whole = Masking({**self._masked.whole, **self._statistics}, dict.fromkeys(self._masked.whole, b""))
        expected = copy.deepcopy(model).to(device).eval()(images.to(device))
        try:
            [[(answer,)]] = self._answering.run([whole], sheet)
        except RuntimeError as error:
            raise ModelError(f"the model's program takes batches of one size only: {error}") from error
        room = TOLERANCE * float(expected.nan_to_num().abs().max())
        same = answer.shape == expected.shape
        if not same or not torch.allclose(answer, expected, rtol=TOLERANCE, atol=room, equal_nan=True):
            raise ModelError("the model's program does not answer as the model does")


def _digest(mask: Tensor) -> bytes:
    return blake2b(mask.cpu().numpy().data, digest_size=16).digest()
