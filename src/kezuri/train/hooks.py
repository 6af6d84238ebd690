"""What a method may do inside the training loop."""

import torch
from torch import Tensor, nn


class Hook:
    """Override the moments you need; `step` counts from 0 over the whole training.

    What a hook does must follow from the model and the step alone: a hook is not part of a checkpoint, so
    one that remembers earlier steps would break the promise that a resumed training ends the same.
    """

    def before_forward(self, model: nn.Module, step: int) -> None:
        """Before the model sees the batch."""

    def penalty(self, model: nn.Module) -> Tensor | None:  # noqa: ARG002 (for subclasses)
        """A scalar added to the loss, or None."""
        return None

    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Gradients are there (unscaled), weights have not changed yet."""

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Weights have changed."""
