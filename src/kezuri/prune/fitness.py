"""How good a mask is: fitness on training images, alike for all masks of a generation."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import get_args

import torch
from torch import Tensor, nn

from kezuri.core.errors import DataError, RecipeError
from kezuri.core.seeds import derive
from kezuri.data import Part
from kezuri.data.parts import permutation
from kezuri.prune.judging import Sheet, batch_size_for
from kezuri.prune.judging_choice import How, way_to_judge
from kezuri.prune.problem import Fitness, Problem
from kezuri.prune.searcher import Asked
from kezuri.prune.space import Space
from kezuri.train.device import Device, choose_device

NORM_IMAGES, NORM_BATCH = 512, 128
"""How many images batch statistics are re-estimated on, and in batches of how many."""


@dataclass(frozen=True)
class MaskFitness:
    """Accuracy and loss of a masked model on images that it was trained with.

    All masks of a generation see the same images. A race lets all of them see a few, and only the best of
    them more, until few are left to see all; what was counted is never computed again.

    Attributes:
        images: how many a mask that wins the race sees; None for all there are.
        rotate: another draw of images each generation, so that a search does not learn one by heart.
        race: how many images decide who goes on, ascending; empty for no race. A mask that is asked alone
            always sees all.
        survivors: fraction of the masks that goes on at each of them, in (0, 1].
        reestimate_norms: batch normalisation gets the statistics of a few hundred images for each mask. Those
            of the whole model no longer fit where much is removed, and then all masks look bad.
        batch_size: images a batch; None for as many as keep the largest activation in a processor's cache,
            which is worked out and not timed, so that the same call gives the same numbers.
        how: `plain` runs the masked model for each mask; `stages` computes what masks have in common once;
            `vmap` runs many masks at once. `auto` takes stages on a CPU, elsewhere what is fastest at first,
            and the plain way for a model that the others cannot run. They differ by rounding alone.
    """

    images: int | None = 1000
    rotate: bool = True
    race: tuple[int, ...] = (300,)
    survivors: float = 0.75
    reestimate_norms: bool = False
    batch_size: int | None = None
    how: How = "auto"

    def __post_init__(self) -> None:
        if (
            (self.images is not None and self.images < 1)
            or (self.batch_size or 1) < 1
            or self.batch_size == 0
        ):
            raise RecipeError(
                f"fitness needs at least one image and batches of one, got images={self.images}, "
                f"batch_size={self.batch_size}"
            )
        if any(first >= then for first, then in pairwise((0, *self.race))):
            raise RecipeError(f"race is numbers of images from 1 up, ascending, got {self.race}")
        if not 0 < self.survivors <= 1:
            raise RecipeError(f"survivors is a fraction in (0, 1], got {self.survivors}")
        if self.how not in get_args(How):
            raise RecipeError(f"how is 'auto', 'stages', 'vmap' or 'plain', got {self.how!r}")
        if self.how == "vmap" and self.reestimate_norms:
            raise RecipeError("how='vmap' cannot re-estimate batch statistics, take 'stages', got both")

    def begin(
        self,
        model: nn.Module,
        space: Space,
        part: Part,
        *,
        problem: Problem,
        seed: int,
        device: Device = "auto",
    ) -> "Judge":
        """Gets ready to judge masks of one model.

        Args:
            model: its weights are copied; it stays as it is.
            space: says which weights a choice of units keeps.
            part: the images, training data only; they are not augmented.
            problem: says who is ahead in the race.
            seed: which images are drawn.
            device: where the work is done.

        Raises:
            DataError: there are no images.
            ModelError: the way that is asked for cannot run the model.
            ShapeError: the space is not of this model.
            UsageError: there is no such device.
        """
        if not len(part):
            raise DataError("there are no images to judge masks on")
        return Judge(self, model, space, part, problem=problem, seed=seed, device=choose_device(device))


class Judge:
    """Judges the masks of one model. What it answers follows from its settings, its seed and the masks.

    Args: those of `MaskFitness.begin`, after the settings.
    """

    def __init__(
        self,
        settings: MaskFitness,
        model: nn.Module,
        space: Space,
        part: Part,
        *,
        problem: Problem,
        seed: int,
        device: torch.device,
    ) -> None:
        self._settings, self._space, self._part = settings, space, part
        self._problem, self._seed, self._device = problem, seed, device
        norms = None
        if settings.reestimate_norms:
            places = permutation(len(part), derive(seed, "fitness", "norms"))[:NORM_IMAGES]
            norms = Sheet(part.subset(places), ("norms",), NORM_BATCH, device)
        self._way = way_to_judge(settings.how, model, space, part.image_shape, device, norms=norms)
        self._batch_size = settings.batch_size or batch_size_for(model, part.image_shape, device)
        self._drawn: tuple[int, list[Sheet]] | None = None

    @torch.inference_mode()
    def judge(self, asked: Asked) -> list[Fitness]:
        """How the masks of one generation did, in their order; those out of the race on fewer images."""
        sheets = self._sheets(asked.generation)
        sums = torch.zeros(len(asked.kept), 2, dtype=torch.float64)
        weights = self._weights(asked.kept)
        seen = [0] * len(asked.kept)
        running = list(range(len(asked.kept)))
        for sheet in sheets if running else []:
            if sheet is not sheets[0]:
                running = self._ahead(running, sums, seen, weights)
            sums[running] += self._way.tally(asked.kept[running], sheet)
            for place in running:
                seen[place] += sheet.images
        return self._fitnesses(sums, seen, weights)

    @torch.inference_mode()
    def fully(self, kept: Tensor) -> list[Fitness]:
        """How masks do on all images of the part.

        Args:
            kept: flags of the units of each, (masks, N) bool.
        """
        sheet = self._sheet(torch.arange(len(self._part)), ("all",))
        sums = self._way.tally(kept, sheet)
        return self._fitnesses(sums, [sheet.images] * len(kept), self._weights(kept))

    def _ahead(
        self, running: Sequence[int], sums: Tensor, seen: Sequence[int], weights: Sequence[int]
    ) -> list[int]:
        """Those that go on, in their order; of equals the earlier."""
        found = self._fitnesses(sums, seen, weights)
        ranked = sorted(running, key=lambda place: self._problem.key(found[place]), reverse=True)
        return sorted(ranked[: ceil(round(self._settings.survivors * len(running), 6))])

    def _sheets(self, generation: int) -> list[Sheet]:
        """The images of a generation, as the race divides them."""
        draw = generation if self._settings.rotate else 0
        if self._drawn is None or self._drawn[0] != draw:
            order = permutation(len(self._part), derive(self._seed, "fitness", draw))
            total = min(self._settings.images or len(order), len(order))
            edges = [0, *(edge for edge in self._settings.race if edge < total), total]
            sheets = [self._sheet(order[first:last], (draw, first)) for first, last in pairwise(edges)]
            self._drawn = (draw, sheets)
        return self._drawn[1]

    def _sheet(self, places: Tensor, name: tuple[str | int, ...]) -> Sheet:
        return Sheet(self._part.subset(places), name, self._batch_size, self._device)

    def _weights(self, kept: Tensor) -> list[int]:
        """How many weights each choice of units keeps."""
        if self._space.is_plain:
            return [int(count) for count in kept.sum(1)]
        masks = [self._space.masks(one) for one in kept]
        return [one.total - one.removed for one in masks]

    def _fitnesses(self, sums: Tensor, seen: Sequence[int], weights: Sequence[int]) -> list[Fitness]:
        return [
            Fitness(correct / images, loss / images, images, kept)
            for (correct, loss), images, kept in zip(sums.tolist(), seen, weights, strict=True)
        ]
