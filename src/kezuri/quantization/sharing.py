"""A training that moves shared values: weights of one palette colour stay equal and learn as one."""

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from kezuri.core.errors import ShapeError, UsageError
from kezuri.train.hooks import Hook

Gradient = Literal["sum", "mean"]


class Share(Hook):
    """Trains centroids: the gradient of each is made of those of the weights that it stands for.

    Args:
        codes: by parameter: which value a weight shares, int16 of its shape; −1 for one that stays 0.
        start: the weights that the training starts from.
        gradient: "sum" (Han et al., 2016, section 3.3) or "mean".

    Raises:
        UsageError: no such gradient; or, at the first step, the model has other weights than `start`.
        ShapeError: the model has no such parameter, or of another shape.
    """

    def __init__(self, codes: Mapping[str, Tensor], start: Mapping[str, Tensor], gradient: Gradient) -> None:
        if gradient not in get_args(Gradient):
            raise UsageError(f"gradient is one of {', '.join(get_args(Gradient))}; got {gradient!r}")
        self._gradient = gradient
        self._start = start
        # moved by one, so that zeros are a value like the others
        self._codes = {name: numbers.reshape(-1).long() + 1 for name, numbers in codes.items()}
        self._first = {name: _first_of_each(numbers) for name, numbers in self._codes.items()}

    def before_forward(self, model: nn.Module, step: int) -> None:
        """Makes sure that it is those weights that are trained."""
        if step:
            return
        for name, parameter in self._parameters(model).items():
            if not torch.equal(parameter.detach().cpu(), self._start[name].cpu()):
                raise UsageError(f"{name} does not have its palette's values: load the palettes' state first")

    @torch.no_grad()
    def after_backward(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:  # noqa: ARG002
        """Gives weights that share a value one gradient."""
        for name, parameter in self._parameters(model).items():
            if parameter.grad is None:
                continue
            codes, first = self._on(name, parameter.device)
            flat = parameter.grad.reshape(-1)
            summed = torch.zeros(len(first), dtype=flat.dtype, device=flat.device).index_add_(0, codes, flat)
            if self._gradient == "mean":
                summed /= codes.bincount(minlength=len(first)).clamp(min=1)
            summed[0] = 0.0
            parameter.grad.copy_(summed[codes].view_as(parameter))

    @torch.no_grad()
    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:  # noqa: ARG002
        """Takes back what rounding did differently to weights that share a value."""
        for name, parameter in self._parameters(model).items():
            codes, first = self._on(name, parameter.device)
            shared = parameter.reshape(-1)[first]
            shared[0] = 0.0
            parameter.copy_(shared[codes].view_as(parameter))

    def _parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name in self._codes:
            if name not in parameters or parameters[name].numel() != len(self._codes[name]):
                raise ShapeError(
                    f"there is a palette for {name}, but the model has no such parameter, or another"
                )
        return {name: parameters[name] for name in self._codes}

    def _on(self, name: str, device: torch.device) -> tuple[Tensor, Tensor]:
        if self._codes[name].device != device:
            self._codes[name] = self._codes[name].to(device)
            self._first[name] = self._first[name].to(device)
        return self._codes[name], self._first[name]


def _first_of_each(codes: Tensor) -> Tensor:
    """Where each value is met first, (values,); 0 for those that never are."""
    values = int(codes.max()) + 1 if len(codes) else 1
    first = torch.full((values,), len(codes)).scatter_reduce_(0, codes, torch.arange(len(codes)), "amin")
    return first.where(first < len(codes), 0)
