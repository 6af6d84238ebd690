"""What a training makes small, where that is more than the cross-entropy of the labels."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from kezuri.data import Batch
from kezuri.train.training import Training


@dataclass(frozen=True)
class Start:
    """What an objective is told before the first step.

    Attributes:
        training: the settings; an objective that looks at the labels honours their `label_smoothing`.
        seed: the training's; what an objective draws at random follows from it.
        dtype: the number format of the training's arithmetic, for models the objective runs itself.
        epoch_steps: steps a pass over the training images takes.
        images: (2, C, H, W) zeros on the training's device, to try models with.
    """

    training: Training
    seed: int
    dtype: torch.dtype
    epoch_steps: int
    images: Tensor


class Objective(Protocol):
    """A scalar that training makes small; subclass it and write `__call__`.

    Its value must follow from the model, the batch, the step and its own `tensors`: anything else that it
    remembered would be lost when a training is killed and resumed. A dataclass says by its fields which
    settings a checkpoint belongs to.
    """

    def begun(self, model: nn.Module, start: Start) -> AbstractContextManager[object]:  # noqa: ARG002
        """Entered before the first step and left after the last; the model is on its device already.

        Raises:
            UsageError: model and objective do not fit.
        """
        return nullcontext()

    def __call__(self, model: nn.Module, batch: Batch, logits: Tensor, step: int) -> Tensor:
        """The scalar of a batch, float32; hooks' penalties are added to it.

        Args:
            model: being trained, on its device and in the mode it trains in.
            batch: what it was shown.
            logits: what it answered, (B, classes), in the arithmetic's number format.
            step: counts from 0 over the whole training.
        """
        ...

    def tensors(self) -> Mapping[str, Tensor]:
        """Its own tensors by name, kept in checkpoints; those that are Parameters are trained along.

        Asked for once `begun` is entered; they must be on the device then.
        """
        return {}
