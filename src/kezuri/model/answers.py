"""Two models on the same random inputs: how far are their answers apart?"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from kezuri.core.errors import ProofFailed
from kezuri.core.seeds import derive
from kezuri.model.modes import evaluating


@dataclass(frozen=True)
class Batches:
    """Random inputs, and the type the models compute in."""

    inputs: Sequence[Sequence[Tensor]]
    dtype: torch.dtype


def lively(model: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """The model, or where its answers do not depend on the inputs, a copy that has random numbers for zeros.

    A network that begins with zeros (a zero head, zero scales of residual branches) would prove anything.
    """
    twin = copy.deepcopy(model)  # its forward may write buffers
    with evaluating(twin), torch.no_grad():
        first, second = (
            pytree.tree_leaves(twin(*_random_like(inputs, number, _dtype(model)))) for number in range(2)
        )
    if any(isinstance(a, Tensor) and not torch.equal(a, b) for a, b in zip(first, second, strict=True)):
        return model
    generator = torch.Generator().manual_seed(derive(0, "lively"))
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.is_floating_point() and not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 8)
    return twin


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _typed(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model, or a copy of another type."""
    floating = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    return model if all(tensor.dtype == dtype for tensor in floating) else copy.deepcopy(model).to(dtype)


@torch.no_grad()
def difference(masked: nn.Module, cut: nn.Module, batches: Batches) -> float:
    """The largest difference of any output, relative to the largest number in that output of `masked`.

    Raises:
        ProofFailed: `cut` cannot compute an answer, or gives more or fewer outputs.
    """
    worst = 0.0
    masked, cut = _typed(masked, batches.dtype), _typed(cut, batches.dtype)
    with evaluating(masked), evaluating(cut):
        for batch in batches.inputs:
            expected = pytree.tree_leaves(masked(*batch))
            try:
                answers = pytree.tree_leaves(cut(*batch))
            except Exception as error:
                raise ProofFailed(f"the cut model fails: {_shortened(error)}") from error
            if len(answers) != len(expected):
                raise ProofFailed(f"the cut model gives {len(answers)} outputs, not {len(expected)}")
            worst = max([worst, *map(_distance, expected, answers)])
    return worst


def random_batches(inputs: tuple[Tensor, ...], dtype: torch.dtype, count: int) -> Batches:
    """Normal numbers in the shape of the inputs, the same each time; whole numbers stay as they are."""
    return Batches([_random_like(inputs, number, dtype) for number in range(count)], dtype)


def _random_like(inputs: tuple[Tensor, ...], number: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(derive(0, "proof", number))
    return [
        torch.randn(tensor.shape, generator=generator).to(tensor.device, dtype)
        if tensor.is_floating_point()
        else tensor
        for tensor in inputs
    ]


def _distance(expected: object, answer: object) -> float:
    """Relative to the largest expected value; infinite where shapes differ or a number is not finite."""
    if not isinstance(expected, Tensor) or not isinstance(answer, Tensor):
        return 0.0 if expected == answer else float("inf")
    if expected.shape != answer.shape:
        return float("inf")
    if expected.numel() == 0:
        return 0.0
    expected, answer = expected.double(), answer.double()
    apart, largest = float((expected - answer).abs().max()), float(expected.abs().max())
    if apart == 0:
        return 0.0
    relative = apart / largest if largest else float("inf")
    return relative if relative < float("inf") else float("inf")


def _shortened(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:150]}"
