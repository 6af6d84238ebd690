"""Judging many masks at once, for devices that one small model leaves idle."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from kezuri.core.errors import ModelError
from kezuri.prune.judging import MEMORY, Count, Masked, Sheet
from kezuri.prune.space import Space


class VmapWay:
    """A copy of the model, run for many masks at once.

    Args:
        model: stays as it is.
        space: says which weights a choice of units keeps.
        image_shape: (C, H, W).
        device: where the work is done.
        largest: bytes of the largest activation of one image, which says how many go at once.

    Raises:
        ModelError: torch cannot run the model so.
        ShapeError: the space is not of this model.
    """

    def __init__(
        self,
        model: nn.Module,
        space: Space,
        image_shape: tuple[int, int, int],
        device: torch.device,
        *,
        largest: int,
    ) -> None:
        self._masked, self._largest = Masked(model, space, device), largest
        self._model = copy.deepcopy(model).to(device).eval()
        try:
            with torch.inference_mode():
                self._answers(torch.ones(2, space.units) > 0, torch.zeros(3, *image_shape, device=device))
        except RuntimeError as error:
            raise ModelError(f"torch.vmap cannot run the model: {error}") from error

    def tally(self, kept: Tensor, sheet: Sheet) -> Tensor:
        """See `Way.tally`."""
        images = max(len(batch.images) for batch in sheet.batches)
        size = self._masked.bytes + self._largest * images
        return torch.cat([self._tally(part, sheet) for part in torch.split(kept, max(1, 4 * MEMORY // size))])

    def _tally(self, kept: Tensor, sheet: Sheet) -> Tensor:
        count = Count()
        for batch in sheet.batches:
            count.add(self._answers(kept, batch.images), batch.targets)
        return count.sums()

    def _answers(self, kept: Tensor, images: Tensor) -> Tensor:
        """Logits of each mask, (masks, B, classes)."""
        each = list(self._masked.each(kept))
        stacked = {name: torch.stack([weights[name] for weights in each]) for name in each[0]}

        def run(weights: Mapping[str, Tensor]) -> Tensor:
            answer: Tensor = functional_call(self._model, dict(weights), (images,))
            return answer

        answers: Tensor = vmap(run)(stacked)
        return answers
