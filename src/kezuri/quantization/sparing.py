"""Layers left in floats for the sake of accuracy: those that suffer most first, and as few as keep it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from kezuri.core.errors import GoalUnreachable
from kezuri.core.progress import Progress
from kezuri.model.modes import evaluating
from kezuri.quantization.fake import FakeQuant, quantizers_of
from kezuri.quantization.post_training import post_training
from kezuri.quantization.ptq import SILENT, PostTraining
from kezuri.quantization.quantized import Quantized
from kezuri.quantization.scheme import Scheme

Accuracy = Callable[[nn.Module], float]


@dataclass(frozen=True, eq=False)
class Spared:
    """The outcome of leaving layers in floats for the sake of accuracy.

    Attributes:
        best: with as few of them as keep the accuracy; the most accurate that was tried, if none did.
        accuracy: of it.
        kept: whether it is what was asked for.
        tried: how many layers it was at most, and how many there are.
    """

    best: Quantized
    accuracy: float
    kept: bool
    tried: tuple[int, int]


def keeping(
    model: nn.Module,
    batches: Sequence[tuple[Tensor, ...]],
    scheme: Scheme,
    method: PostTraining,
    *,
    accuracy: Accuracy,
    floor: float,
    progress: Progress = SILENT,
) -> Spared:
    """The quantized model with as few layers in floats as keep an accuracy; those that suffer most go first.

    Args:
        accuracy: of a model, as a fraction; asked some log₂(layers) times.
        floor: what it must not fall below.
    """
    whole = post_training(model, batches, scheme, method, progress)
    best = Spared(whole, accuracy(whole.model), False, (0, 0))
    if best.accuracy >= floor:
        return replace(best, kept=True)
    order = [layer for layer, _ in suffering(whole, batches)]
    low, high = 0, len(order)
    while high - low > 1:  # with `low` layers in floats it is not kept
        middle = (low + high) // 2 if best.kept else min(high - 1, max(1, 2 * low))
        made = post_training(model, batches, scheme, method, progress, tuple(order[:middle]))
        reached = accuracy(made.model)
        kept = reached >= floor
        low, high = (low, middle) if kept else (middle, high)
        if kept or (not best.kept and reached > best.accuracy):
            best = Spared(made, reached, kept, (middle, len(order)))
    return replace(best, tried=(low, len(order)))


def unkept(spared: Spared, floor: float) -> GoalUnreachable:
    """The error for an accuracy that no choice of layers keeps."""
    most, layers = spared.tried
    return GoalUnreachable(
        f"an accuracy of {floor:.2%} is not kept in integers: {spared.accuracy:.2%} at best, with up to "
        f"{most} of {layers} layers in floats; train the quantized model, or give more bits"
    )


@torch.no_grad()
def suffering(quantized: Quantized, batches: Sequence[tuple[Tensor, ...]]) -> list[tuple[str, float]]:
    """The layers, and how much each alone moves the model's answers when rounded; the worst first.

    Measured as the mean squared change of the answers, relative to their variance, on the calibration images.
    """
    network = quantized.model
    every = quantizers_of(network)
    owned: dict[str, set[str]] = {}
    for site in quantized.prepared.sites:
        owned.setdefault(site.layer, set()).update((site.quantizer, site.inputs))
    before = {name: one.on for name, one in every.items()}
    with evaluating(network):
        try:
            _switch(every, ())
            plain = [_numbers(network(*batch)) for batch in batches]
            scale = sum(float(answer.var(correction=0)) for answer in plain) or 1.0
            found: dict[str, float] = {}
            for layer, names in owned.items():
                _switch(every, names)
                apart = (_numbers(network(*batch)) - was for batch, was in zip(batches, plain, strict=True))
                found[layer] = sum(float(off.square().mean()) for off in apart) / scale
        finally:
            _switch(every, {name for name, on in before.items() if on})
    return sorted(found.items(), key=lambda item: -item[1])


def _switch(every: Mapping[str, FakeQuant], names: Collection[str]) -> None:
    """Only these round."""
    for name, quantizer in every.items():
        quantizer.on = name in names


def _numbers(answer: object) -> Tensor:
    """All fractions of an answer in a row."""
    leaves = pytree.tree_leaves(answer)
    return torch.cat([x.flatten() for x in leaves if isinstance(x, Tensor) and x.is_floating_point()])
