"""The pass over sample data that all collectors share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kezuri.calibrate.collector import Collector, Listener, collectors
from kezuri.calibrate.sites import NO_OTHERS, Site, find_sites
from kezuri.core.errors import UsageError
from kezuri.core.seeds import derive
from kezuri.model.modes import device_of, evaluating

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
        single: how many of them at most are looked at one by one, for collectors that want every image's own
            gradient; each costs a forward and a backward pass.
    """

    batches: int | None = 20
    batch_size: int = 64
    seed: int = 0
    single: int = 512

    def __post_init__(self) -> None:
        if min(self.batch_size, self.single, self.batches or 1) < 1 or self.batches == 0:
            raise UsageError(
                f"calibration needs at least one batch of one image, got batches={self.batches}, "
                f"batch_size={self.batch_size}, single={self.single}"
            )


def collect(
    model: nn.Module,
    part: Part,
    listening: Sequence[Collector],
    *,
    sample: Sample = Sample(),
    loss: Loss = cross_entropy,
    others: Mapping[str, int] = NO_OTHERS,
) -> dict[str, dict[str, Tensor]]:
    """Runs sample data through a model once and returns what the collectors learnt.

    The model runs in evaluation mode and is left as it was: weights, buffers, gradients, modes and hooks.

    Args:
        model: runs on the device its parameters are on.
        part: the data; use training images, without augmentation.
        listening: the collectors.
        sample: how much data, and which.
        loss: mean loss of a batch from logits (B, classes) and targets, for collectors that need gradients.
        others: parameters to learn about beside linear layers and convolutions, with the dimension that
            their outputs lie along.

    Returns:
        by weight name, what each collector learnt, under the collector's registered name. Outputs come first
        (dimension 0), also of transposed convolutions.
    """
    sites = find_sites(model, others)
    learnt: dict[str, dict[str, Tensor]] = {name: {} for name in sites}
    for single in (False, True):
        collecting = [collector for collector in listening if (collector.gradients == "image") is single]
        if collecting:
            batches = _batches(part, sample, device_of(model), single=single)
            for kind, evidence in _hear(model, sites, collecting, batches=batches, loss=loss).items():
                for name, value in evidence.items():
                    learnt[name][kind] = value
    return learnt


def _batches(
    part: Part, sample: Sample, device: torch.device, *, single: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and targets of the sample, in batches or one by one."""
    whole = part.batches(sample.batch_size, seed=derive(sample.seed, "calibrate"), device=device)
    batches = ((batch.images, batch.targets) for batch in islice(whole, sample.batches))
    if not single:
        return batches
    alone = (
        (images[at : at + 1], targets[at : at + 1])
        for images, targets in batches
        for at in range(len(images))
    )
    return islice(alone, sample.single)


def _hear(
    model: nn.Module,
    sites: Mapping[str, Site],
    collecting: Sequence[Collector],
    *,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss: Loss,
) -> dict[str, dict[str, Tensor]]:
    """One pass: by collector's name, its evidence."""
    wants_gradients = any(collector.gradients != "none" for collector in collecting)
    named = _differentiable(model, sites) if wants_gradients else {}
    with _evaluating(model, list(named.values())), _attached(model, sites, collecting) as listeners:
        for images, targets in batches:
            with torch.set_grad_enabled(wants_gradients):
                logits = model(images)
                gradients = _gradients(loss(logits, targets), named) if wants_gradients else {}
            for listener in listeners.values():
                listener.after_batch(gradients, len(images))
    return {kind: listener.evidence() for kind, listener in listeners.items()}


def _differentiable(model: nn.Module, sites: Mapping[str, Site]) -> dict[str, Tensor]:
    """Every parameter under all its names, and the weights, which may be computed ones."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    weights = {name: site.weight for name, site in sites.items()}
    return {name: tensor for name, tensor in {**weights, **parameters}.items() if tensor.is_floating_point()}


def _gradients(loss: Tensor, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    held = {id(tensor): tensor for tensor in named.values()}
    # torch.autograd.grad, unlike backward, leaves `.grad` alone.
    found = torch.autograd.grad(loss, list(held.values()), allow_unused=True)
    gradients = dict(zip(held, found, strict=True))
    return {name: grad for name, tensor in named.items() if (grad := gradients[id(tensor)]) is not None}


@contextmanager
def _evaluating(model: nn.Module, differentiated: Sequence[Tensor]) -> Iterator[None]:
    """Evaluation mode, with some tensors differentiable; both as before on leaving."""
    frozen = [tensor for tensor in differentiated if not tensor.requires_grad]
    for tensor in frozen:
        tensor.requires_grad_(True)
    try:
        with evaluating(model):
            yield
    finally:
        for tensor in frozen:
            tensor.requires_grad_(False)


@contextmanager
def _attached(
    model: nn.Module, sites: Mapping[str, Site], collecting: Sequence[Collector]
) -> Iterator[dict[str, Listener]]:
    """A listener of every collector, by the collector's name; closed on leaving."""
    with ExitStack() as stack:
        listeners: dict[str, Listener] = {}
        for collector in collecting:
            listener = listeners[collectors.name_of(collector)] = collector.listen(model, sites)
            stack.callback(listener.close)
        yield listeners
