"""The pass over sample data that all collectors share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kezuri.calibrate.collector import Collector, Listener, collectors
from kezuri.calibrate.sites import scored_weights
from kezuri.core.errors import UsageError
from kezuri.core.seeds import derive

if TYPE_CHECKING:
    from kezuri.data import Part

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Sample:
    """How much data calibration sees, and which.

    Attributes:
        batches: how many batches at most; None for one pass over the whole part.
        batch_size: images a batch.
        seed: which images, drawn without replacement.
    """

    batches: int | None = 20
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1 or (self.batches is not None and self.batches < 1):
            raise UsageError(
                f"calibration needs at least one batch of one image, got batches={self.batches}, "
                f"batch_size={self.batch_size}"
            )


def collect(
    model: nn.Module,
    part: Part,
    listening: Sequence[Collector],
    *,
    sample: Sample = Sample(),
    loss: Loss = cross_entropy,
) -> dict[str, dict[str, Tensor]]:
    """Runs sample data through a model once and returns what the collectors learnt.

    The model runs in evaluation mode and is left as it was: weights, buffers, gradients, modes and hooks.

    Args:
        model: runs on the device its parameters are on.
        part: the data; use training images, without augmentation.
        listening: the collectors.
        sample: how much data, and which.
        loss: mean loss of a batch from logits (B, classes) and targets, for collectors that need gradients.

    Returns:
        by weight name, what each collector learnt, under the collector's registered name.
    """
    weights = scored_weights(model)
    wants_gradients = any(collector.gradients for collector in listening)
    device = next(model.parameters()).device
    batches = part.batches(sample.batch_size, seed=derive(sample.seed, "calibrate"), device=device)
    with (
        _evaluating(model, list(weights.values()) if wants_gradients else []),
        _attached(model, listening) as listeners,
    ):
        for batch in islice(batches, sample.batches):
            with torch.set_grad_enabled(wants_gradients):
                logits = model(batch.images)
                gradients = _gradients(loss(logits, batch.targets), weights) if wants_gradients else {}
            for listener in listeners.values():
                listener.after_batch(gradients, len(batch.images))
    learnt: dict[str, dict[str, Tensor]] = {name: {} for name in weights}
    for kind, listener in listeners.items():
        for name, value in listener.evidence().items():
            learnt[name][kind] = value
    return learnt


def _gradients(loss: Tensor, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # torch.autograd.grad, unlike backward, leaves `.grad` alone.
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return {name: grad for name, grad in zip(weights, gradients, strict=True) if grad is not None}


@contextmanager
def _evaluating(model: nn.Module, differentiated: Sequence[Tensor]) -> Iterator[None]:
    """Evaluation mode, with some weights differentiable; both as before on leaving."""
    training = {module: module.training for module in model.modules()}
    frozen = [weight for weight in differentiated if not weight.requires_grad]
    model.eval()
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
        for module, mode in training.items():
            module.training = mode


@contextmanager
def _attached(model: nn.Module, listening: Sequence[Collector]) -> Iterator[dict[str, Listener]]:
    """A listener of every collector, by the collector's name; closed on leaving."""
    with ExitStack() as stack:
        listeners: dict[str, Listener] = {}
        for collector in listening:
            listener = listeners[collectors.name_of(collector)] = collector.listen(model)
            stack.callback(listener.close)
        yield listeners
