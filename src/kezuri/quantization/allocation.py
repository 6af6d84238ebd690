"""One call: a trained model, a few images and a budget in; each layer in the bits that lose least out."""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from kezuri.core.errors import UsageError
from kezuri.core.progress import Progress
from kezuri.data import Data
from kezuri.quantization.affine import BITS
from kezuri.quantization.bits import Allocation, allocate, front
from kezuri.quantization.layer_losses import LayerCosts, layer_inputs, magnitude_mask, measure_layers
from kezuri.quantization.observers.mse import Mse
from kezuri.quantization.post_training import calibration_batches, post_training
from kezuri.quantization.ptq import SILENT, PostTraining
from kezuri.quantization.quantized import Quantized
from kezuri.quantization.scheme import Scheme
from kezuri.quantization.sensitivity import Cost, Entry, Metric, Option, SensitivityTable


@dataclass(frozen=True)
class Budget:
    """What the quantized model may cost, and what may be done to a layer to get there.

    Give one of size and macs. Of either, a number up to 1 is a fraction of what the model costs in floats.

    Attributes:
        size: bytes of a file in which every layer has its own bits (what counts: see
            `kezuri.quantization.layer_losses`); files of the ONNX Runtime hold 8 bits for each weight,
            whatever is chosen.
        macs: multiply-accumulates for one image with weights that are not zero.
        latency: none can be kept: the runtime computes in 8 bits, whatever is chosen.
        bits: a layer may have, 2 to 8.
        sparsities: fractions of a layer's weights that may go, those of the smallest magnitude.
    """

    size: float | None = None
    macs: float | None = None
    latency: float | None = None
    bits: tuple[int, ...] = (8, 6, 5, 4, 3, 2)
    sparsities: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        if self.latency is not None:
            raise UsageError(
                "no budget on latency: the runtime computes in 8 bits whatever a layer has, so no choice of "
                "bits is faster than another; give a budget on size, or prune to a latency"
            )
        if (self.size is None) == (self.macs is None):
            given = "both" if self.size is not None else "none"
            raise UsageError(f"a budget is on one of size and macs, such as {{size: 0.15}}; got {given}")
        if not self.most > 0:
            raise UsageError(f"the budget on {self.metric} must be above 0, got {self.most}")
        if not self.bits or any(type(bits) is not int or bits not in BITS for bits in self.bits):
            raise UsageError(f"bits are from {BITS.start} to {BITS.stop - 1}, got {list(self.bits)}")
        if not self.sparsities or not all(0 <= sparsity < 1 for sparsity in self.sparsities):
            raise UsageError(f"sparsities are fractions in [0, 1), got {list(self.sparsities)}")
        if self.macs is not None and not any(self.sparsities):
            raise UsageError("fewer bits are no fewer macs: give sparsities to choose from, such as [0, 0.5]")

    @property
    def metric(self) -> Metric:
        """What it is on."""
        return "size" if self.size is not None else "macs"

    @property
    def most(self) -> float:
        """As it was given."""
        return self.size or self.macs or 0.0

    def options(self, costs: LayerCosts) -> dict[str, list[Option]]:
        """What may be done to each layer, the gentlest first; weights that are no parameters lose none."""
        found = {}
        for layer in costs.sites:
            sparsities = self.sparsities if isinstance(costs.weight(layer), nn.Parameter) else (0.0,)
            pairs = {(sparsity, -bits) for bits in self.bits for sparsity in sparsities}
            found[layer] = [Option(-bits, sparsity) for sparsity, bits in sorted(pairs)]
        return found

    def limit(self, costs: LayerCosts) -> float:
        """In bytes or multiply-accumulates, for a model.

        Raises:
            GoalUnreachable: no choice of options keeps it; nothing was measured to find out.
        """
        whole = costs.whole.of(self.metric) or 0.0
        limit = self.most * whole if self.most <= 1 else self.most
        entries = {
            layer: tuple(Entry(option, 0.0, costs.cost(layer, option)) for option in options)
            for layer, options in self.options(costs).items()
        }
        allocate(SensitivityTable(entries, fixed=costs.fixed), metric=self.metric, most=limit)
        return limit


@dataclass(frozen=True)
class Allocated:
    """What a budget came to.

    Attributes:
        allocation: the option of each layer.
        table: what every option of every layer loses.
        limit: the budget, in bytes or multiply-accumulates.
        whole: what the model costs in floats.
        masks: which weights are kept, by parameter name; only of layers that lose some.
    """

    allocation: Allocation
    table: SensitivityTable
    limit: float
    whole: Cost
    masks: Mapping[str, Tensor]

    @property
    def layer_bits(self) -> dict[str, int]:
        """The bits of each layer's weight, by name."""
        return {layer: option.bits for layer, option in self.allocation.options.items()}

    def to_json(self) -> dict[str, Any]:
        """Limit and choice as plain data."""
        return {"limit": self.limit, "whole": asdict(self.whole), "chosen": self.allocation.to_json()}


def allocate_layers(
    model: nn.Module,
    batches: Sequence[tuple[Tensor, ...]],
    scheme: Scheme,
    method: PostTraining,
    budget: Budget,
    *,
    labels: Tensor | None = None,
    journal: Path | None = None,
    progress: Progress = SILENT,
) -> Allocated:
    """Measures what each layer loses, or reads it, and chooses under a budget; the model stays as it is.

    Every layer may get any of the bits, the first and the last too: what they suffer is in the table.

    Args:
        model: as `quantize` takes it.
        batches: to calibrate with.
        scheme, method: as the model will be quantized; its `layer_bits` do not count.
        budget: what it may cost, and what there is to choose from.
        labels, journal, progress: as in `kezuri.quantization.layer_losses.measure_layers`.

    Raises:
        GoalUnreachable: the budget is below the cheapest choice; found out before anything is measured.
        ModelError, UsageError: as of `quantize` and `measure_layers`.
    """
    costs = LayerCosts.of(model, layer_inputs(model, batches), scheme)
    limit = budget.limit(costs)
    table = measure_layers(
        costs,
        batches,
        method,
        options=budget.options(costs),
        labels=labels,
        journal=journal,
        progress=progress,
    )
    chosen = allocate(table, metric=budget.metric, most=limit)
    masks = {
        costs.sites[layer][0].weight: magnitude_mask(costs.weight(layer), option.sparsity)
        for layer, option in chosen.options.items()
        if option.sparsity
    }
    return Allocated(chosen, table, limit, costs.whole, masks)


def quantize_to(
    model: nn.Module,
    calibration: Data | Dataset[Any] | Tensor | Iterable[Any],
    budget: Budget | Mapping[str, Any],
    *,
    scheme: Scheme | None = None,
    method: PostTraining | None = None,
    labels: Tensor | None = None,
    table: Path | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> tuple[Quantized, Allocation, tuple[Allocation, ...]]:
    """Quantizes a trained model to a budget: layers that suffer little get few bits, the others more.

    Each layer is tried alone with each number of bits (and sparsity), and the choice is made as if losses
    added up (`kezuri.quantization.bits`).

    Args:
        model: left as it is.
        calibration: as in `quantize`.
        budget: `{"size": 0.15}` for 15 % of the bytes in floats; see `Budget`.
        scheme: bits of activations, and places; `layer_bits` are found here.
        method: how ranges are found and weights rounded; ranges of weights by "mse" if none is given.
        labels: (N,) of the images in order, where `calibration` is a batch or batches; the model's own
            answers are what is kept if there are none.
        table: a file that keeps what was measured, and from which another budget takes it again.
        seed, progress: as in `quantize`.

    Returns:
        the quantized model, the option of each layer, and the choices that no other beats.

    Raises:
        GoalUnreachable: the budget is below the cheapest choice.
        UsageError: a value is out of range, or the table is of something else.
        DataError, ModelError: as of `quantize`.
    """
    budget = _budget(budget)
    scheme, method = scheme or Scheme(), method or PostTraining(weight_observer=Mse())
    batches = calibration_batches(model, calibration, method, seed=seed)
    found = allocate_layers(
        model, batches, scheme, method, budget, labels=labels, journal=table, progress=progress
    )
    thinned = without(model, found.masks)
    made = post_training(thinned, batches, replace(scheme, layer_bits=found.layer_bits), method, progress)
    zero_(made.model, found.masks)  # some roundings move what is zero
    return made, found.allocation, front(found.table, metric=budget.metric)


def _budget(given: Budget | Mapping[str, Any]) -> Budget:
    if isinstance(given, Budget):
        return given
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }
    try:
        return Budget(**settings)
    except TypeError as error:
        raise UsageError(f"a budget has size or macs, bits and sparsities; got {settings}") from error


def without(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a model with what masks leave out at zero; the model itself if there are none."""
    if not masks:
        return model
    copy = deepcopy(model)
    zero_(copy, masks)
    return copy


@torch.no_grad()
def zero_(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Sets what masks leave out to zero."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, kept in masks.items():
        parameters[name].mul_(kept)
