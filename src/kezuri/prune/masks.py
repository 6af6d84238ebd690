"""Which weights are kept, for a whole model, and how training is made to respect it."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from kezuri.core.errors import ShapeError
from kezuri.train.hooks import Hook


class Masks(Mapping[str, Tensor]):
    """One boolean tensor per pruned weight, by parameter name; True is kept.

    Raises:
        ShapeError: a mask is not boolean.
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        for name, mask in masks.items():
            if mask.dtype != torch.bool:
                raise ShapeError(f"the mask of {name} must be boolean (True = kept), got {mask.dtype}")
        self._masks = dict(masks)

    @property
    def total(self) -> int:
        """How many weights the masks speak of."""
        return sum(mask.numel() for mask in self.values())

    @property
    def removed(self) -> int:
        """How many of them are removed."""
        return self.total - sum(int(mask.sum()) for mask in self.values())

    @property
    def sparsity(self) -> float:
        """Fraction of them that is removed, in [0, 1]; 0 without masks."""
        return self.removed / self.total if self else 0.0

    @torch.no_grad()
    def apply_(self, model: nn.Module) -> None:
        """Zeroes the removed weights in place.

        Raises:
            ShapeError: the model has no such parameter, or of another shape.
        """
        for parameter, gone in self._removed(model):
            parameter.masked_fill_(gone, 0)

    def hold(self) -> "Hold":
        """A training hook that keeps the removed weights at zero."""
        return Hold(self)

    def _removed(self, model: nn.Module) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Each masked parameter with the flags of its removed weights, on its device."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name, mask in self.items():
            if name not in parameters:
                raise ShapeError(f"there is a mask for {name}, but the model has no such parameter")
            if parameters[name].shape != mask.shape:
                raise ShapeError(
                    f"the mask of {name} is {tuple(mask.shape)}, the weight {tuple(parameters[name].shape)}"
                )
            yield parameters[name], ~mask.to(parameters[name].device)

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)


class Hold(Hook):
    """Holds masks through training: neither gradients, momentum nor weight decay revive a weight.

    Args:
        masks: applied before each step's forward, to the gradients, and to weights and optimizer after it.
    """

    def __init__(self, masks: Masks) -> None:
        self._masks = masks

    def before_forward(self, model: nn.Module, step: int) -> None:  # noqa: ARG002 (the role's)
        self._masks.apply_(model)

    @torch.no_grad()
    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:  # noqa: ARG002
        for parameter, gone in self._masks._removed(model):
            if parameter.grad is not None:
                parameter.grad.masked_fill_(gone, 0)

    @torch.no_grad()
    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:  # noqa: ARG002
        for parameter, gone in self._masks._removed(model):
            parameter.masked_fill_(gone, 0)
            for state in optimizer.state.get(parameter, {}).values():
                # Momentum and second moments have the weight's shape; step counts do not.
                if isinstance(state, Tensor) and state.shape == parameter.shape:
                    state.masked_fill_(gone, 0)
