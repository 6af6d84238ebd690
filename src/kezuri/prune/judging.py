"""Ways to run a model under many masks: what each answers rightly, and its loss."""

import copy
from collections.abc import Iterator
from functools import cached_property
from math import ceil
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from kezuri.core.errors import ShapeError
from kezuri.data import Part
from kezuri.data.parts import Batch
from kezuri.prune.space import Space

CACHE = 1 << 21
"""Bytes that the largest activation of a batch takes on a CPU, about what is near a core."""
MEMORY = 1 << 28
"""Bytes that it takes elsewhere, and that the weights of many masks may take."""
LARGEST_BATCH = 1000
CEILING = 1e4
"""Nats that an answer counts at most; one that is not a number counts as many, and as wrong."""
FINENESS = 1 << 20
MANY = 1 << 22
"""Numbers that wait to be counted together."""
PROBED = 7


class Sheet:
    """Images that masks are judged on together, held in batches.

    Args:
        part: the images, at least one.
        name: tells it from others of the same judge.
        batch_size: images a batch, at most.
        device: where they are put.
    """

    def __init__(
        self, part: Part, name: tuple[str | int, ...], batch_size: int, device: torch.device
    ) -> None:
        self.images, self.name = len(part), name
        self._part, self._device = part, device
        self._size = ceil(len(part) / ceil(len(part) / batch_size))

    @cached_property
    def batches(self) -> list[Batch]:
        """All of them, of nearly equal sizes."""
        return list(self._part.batches(self._size, device=self._device))


class Way(Protocol):
    """Runs one model under any mask."""

    def tally(self, kept: Tensor, sheet: Sheet) -> Tensor:
        """Right answers and summed loss of each mask on the images, (masks, 2) float64.

        Args:
            kept: flags of the units of each, (masks, N) bool.
        """
        ...


class PlainWay:
    """A copy of the model, masked and run for each mask by itself.

    Args:
        model: stays as it is.
        space: says which weights a choice of units keeps.
        device: where the work is done.
        norms: the images that batch statistics are re-estimated on for each mask; None to leave them.

    Raises:
        ShapeError: the space is not of this model.
    """

    def __init__(
        self, model: nn.Module, space: Space, device: torch.device, *, norms: Sheet | None = None
    ) -> None:
        self._model = copy.deepcopy(model).to(device).eval()
        self._masked = Masked(model, space, device)
        self._parameters = dict(self._model.named_parameters(remove_duplicate=False))
        self._norms = norms
        layers = [one for one in self._model.modules() if isinstance(one, _BatchNorm)]
        self._layers = [one for one in layers if one.track_running_stats] if norms else []
        for layer in self._layers:
            layer.momentum = None  # torch's way to ask for an average of all batches

    def tally(self, kept: Tensor, sheet: Sheet) -> Tensor:
        """See `Way.tally`."""
        rows = []
        for weights in self._masked.each(kept):
            for name, weight in weights.items():
                self._parameters[name].data = weight
            if self._norms is not None:
                self._measure(self._norms)
            count = Count()
            for batch in sheet.batches:
                count.add(self._model(batch.images)[None], batch.targets)
            rows.append(count.sums())
        return torch.cat(rows)

    def _measure(self, sheet: Sheet) -> None:
        """Gives batch normalisation the statistics of some images, under the weights as they are."""
        for layer in self._layers:
            layer.reset_running_stats()
            layer.train()
        for batch in sheet.batches if self._layers else ():
            self._model(batch.images)
        for layer in self._layers:
            layer.eval()


class Masked:
    """The weights of a model under a mask.

    Args:
        model: gives the weights, which are copied.
        space: says what they are under a choice of units.
        device: where they are wanted.

    Raises:
        ShapeError: the space is not of this model.
    """

    def __init__(self, model: nn.Module, space: Space, device: torch.device) -> None:
        parameters = dict(model.named_parameters(remove_duplicate=False))
        check_fit(model, space)
        self._space, self._device = space, device
        self.whole = {name: parameters[name].detach().clone().to(device) for name in space.weights}
        # where every unit is a tile of one weight, its flags are looked up
        self._places = {
            name: places.to(device).contiguous()
            for group in space.groups
            if group.shape is not None
            for name, places in group.spread(torch.arange(len(group.sizes)), fill=0).items()
        }

    @property
    def bytes(self) -> int:
        """What the weights of one mask take."""
        return sum(weight.numel() * weight.element_size() for weight in self.whole.values())

    def each(self, kept: Tensor) -> Iterator[dict[str, Tensor]]:
        """The weights of each choice of units, (masks, N) bool, by parameter name."""
        for one in kept:
            yield {name: self.whole[name] * mask for name, mask in self.masks(one).items()}

    def masks(self, kept: Tensor) -> dict[str, Tensor]:
        """As `Space.masks`, and faster where that can be."""
        if any(group.shape is None for group in self._space.groups):
            return {name: mask.to(self._device) for name, mask in self._space.masks(kept).items()}
        flags = self._space.split(kept.to(self._device))
        return {name: flags[name][places] for name, places in self._places.items()}


def check_fit(model: nn.Module, space: Space) -> None:
    """Raises ShapeError unless the masked weights are the model's."""
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    for name, weight in space.weights.items():
        if shapes.get(name) != tuple(weight.shape):
            raise ShapeError(
                f"the space masks {name} of shape {tuple(weight.shape)}, the model has "
                f"{shapes.get(name, 'no such parameter')}"
            )


class Count:
    """Right answers and loss of some masks, added up over batches; exact, in whatever order."""

    def __init__(self) -> None:
        self._answers, self._targets = list[Tensor](), list[Tensor]()
        self._sums: list[Tensor] = []
        self._waiting = 0

    def add(self, answers: Tensor, targets: Tensor) -> None:
        """The logits of each mask, (masks, B, classes), and the labels, (B,)."""
        self._answers.append(answers)
        self._targets.append(targets)
        self._waiting += answers.numel()
        if self._waiting > MANY:
            self._settle()

    def sums(self) -> Tensor:
        """Answers that were right and summed cross-entropy in nats, (masks, 2) float64 on the CPU."""
        self._settle()
        return torch.stack(self._sums).sum(0).cpu() / torch.tensor([1, FINENESS], dtype=torch.float64)

    def _settle(self) -> None:
        """Counts what waits; many batches at once, as each operation on a few answers costs as much."""
        if self._answers:
            self._sums.append(right_and_loss(torch.cat(self._answers, 1), torch.cat(self._targets)))
            self._answers, self._targets, self._waiting = [], [], 0


def right_and_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """How many answers of each mask are right and the summed cross-entropy, (masks, 2) int64.

    Losses are added in whole numbers, `FINENESS` a nat, so that a sum does not depend on its order.

    Args:
        logits: (masks, B, classes).
        targets: (B,) int64.
    """
    masks = len(logits)
    every = targets.expand(masks, -1)
    loss = F.cross_entropy(logits.float().flatten(0, 1), every.flatten(), reduction="none").view(masks, -1)
    sound = loss.isfinite() & (loss < CEILING)
    right = (logits.argmax(2) == every) & sound
    nats = torch.where(sound, loss, CEILING).mul(FINENESS).round().long()
    return torch.stack([right.sum(1), nats.sum(1)], 1)


def batch_size_for(model: nn.Module, image_shape: tuple[int, int, int], device: torch.device) -> int:
    """How many images make the largest activation fill the cache, from 8 up."""
    room = CACHE if device.type == "cpu" else MEMORY
    return max(8, min(LARGEST_BATCH, room // largest_activation(model, image_shape)))


def largest_activation(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Bytes of the largest result of any operation, for one image."""
    twin = copy.deepcopy(model).eval()
    like = next(twin.parameters(), torch.zeros(1))
    seen = _Largest()
    with torch.inference_mode(), seen:
        twin(torch.zeros(PROBED, *image_shape, device=like.device))
    return max(1, seen.bytes // PROBED)


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the largest result of any operation that has as many rows as the batch."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and tensor.dim() > 1 and len(tensor) == PROBED:
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return result
