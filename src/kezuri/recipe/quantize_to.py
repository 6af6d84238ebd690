"""One call: a trained model, a few images and a budget in; each layer in the bits that lose least out."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from kezuri.core.errors import UsageError
from kezuri.core.progress import Progress
from kezuri.data import Data
from kezuri.quantization.allocation import allocate_layers, without, zero_
from kezuri.quantization.bits import Allocation, front
from kezuri.quantization.budget import Budget
from kezuri.quantization.observer import observers
from kezuri.quantization.post_training import calibration_batches, post_training
from kezuri.quantization.ptq import SILENT, PostTraining
from kezuri.quantization.quantize import usual_observer
from kezuri.quantization.quantized import Quantized
from kezuri.quantization.scheme import Scheme
from kezuri.recipe.timing import FileRace


def quantize_to(
    model: nn.Module,
    calibration: Data | Dataset[Any] | Tensor | Iterable[Any],
    budget: Budget | Mapping[str, Any],
    *,
    scheme: Scheme | None = None,
    method: PostTraining | None = None,
    labels: Tensor | None = None,
    table: Path | None = None,
    runtime: str = "onnxruntime",
    seed: int = 0,
    progress: Progress = SILENT,
) -> tuple[Quantized, Allocation, tuple[Allocation, ...]]:
    """Quantizes a trained model to a budget: layers that suffer little get few bits, the others more.

    Each layer is tried alone with each number of bits (and sparsity), and the choice is made as if losses
    added up (`kezuri.quantization.bits`). Under a budget of latency layers are in 8 bits or in floats, and
    the choice is one that keeps it as measured (`kezuri.quantization.latency_budget`).

    Args:
        model: left as it is.
        calibration: as in `quantize`.
        budget: `{"size": 0.15}` for 15 % of the bytes in floats, `{"latency": 0.5}` for half the time; see
            `kezuri.quantization.budget.Budget`.
        scheme: bits of activations, and places; `layer_bits` are found here.
        method: how ranges are found and weights rounded; ranges of weights by "mse" if none is given.
        labels: (N,) of the images in order, where `calibration` is a batch or batches; the model's own
            answers are what is kept if there are none.
        table: a file that keeps what was measured, and from which another budget takes it again.
        runtime: where the model ships, the name of a runner; a budget of latency is measured there, on one
            thread.
        seed, progress: as in `quantize`.

    Returns:
        the quantized model, the option of each layer, and the choices that no other beats.

    Raises:
        GoalUnreachable: the budget is below the cheapest choice.
        UsageError: a value is out of range, or the table is of something else.
        DataError, ModelError: as of `quantize`.
    """
    budget = _budget(budget)
    scheme, method = (scheme or Scheme()).suited(runtime), method or _usual(budget)
    batches = calibration_batches(model, calibration, method, seed=seed)
    race = FileRace(runtime) if budget.metric == "latency" else None
    found = allocate_layers(
        model, batches, scheme, method, budget, race=race, labels=labels, journal=table, progress=progress
    )
    thinned = without(model, found.masks)
    made = post_training(thinned, batches, found.scheme(scheme), method, progress)
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
        raise UsageError(
            f"a budget has size, macs or latency, bits and sparsities; got {settings}"
        ) from error


def _usual(budget: Budget) -> PostTraining:
    return PostTraining(weight_observer=observers[usual_observer(min(budget.bits))]())
