"""How good a model is on a part of a data set."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kezuri.core.errors import DataError
from kezuri.data import Part
from kezuri.train.device import Device, choose_device, out_of_memory
from kezuri.train.lending import lent


@dataclass(frozen=True)
class Evaluation:
    """What a model answered.

    Attributes:
        predictions: (N,) int64, the class with the highest logit, in the part's order.
        labels: (N,) int64, the truth.
        accuracy: fraction of images whose prediction is the label.
        loss: mean cross-entropy, in nats, without label smoothing.
    """

    predictions: Tensor
    labels: Tensor
    accuracy: float
    loss: float


def evaluate(model: nn.Module, part: Part, *, device: Device = "auto", batch_size: int = 500) -> Evaluation:
    """Runs the model over a part in evaluation mode and float32; leaves model, mode and device as found.

    Raises:
        DataError: the part has no images.
        ResourceError: memory ran out.
        UsageError: there is no such device.
    """
    where = choose_device(device)
    with lent(model, where), out_of_memory(batch_size):
        return evaluate_in_place(model, part, device=where, batch_size=batch_size)


def evaluate_in_place(
    model: nn.Module, part: Part, *, device: torch.device, batch_size: int = 500
) -> Evaluation:
    """`evaluate` for a model that is on `device` already; leaves it in evaluation mode."""
    model.eval()
    predictions, labels, loss = [], [], 0.0
    for batch in part.batches(batch_size, device=device):
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            logits = model(batch.images)
            loss += float(F.cross_entropy(logits, batch.targets, reduction="sum"))
            predictions.append(logits.argmax(1).cpu())
        labels.append(batch.targets.cpu())
    if not labels:
        raise DataError("there are no images to evaluate on")
    predicted, truth = torch.cat(predictions), torch.cat(labels)
    correct = int((predicted == truth).sum())
    return Evaluation(predicted, truth, correct / len(truth), loss / len(truth))
