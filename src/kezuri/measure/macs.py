"""Parameters, and multiply-accumulates of one image."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kezuri.core.measurement import Measurement
from kezuri.model.modes import device_of, evaluating


def count_params(model: nn.Module) -> int:
    """Numbers that training may change; shared ones count once, buffers not at all."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates for one image in convolutions, matrix products and attention.

    Zero weights count: masks save no operations, cuts do. Biases, normalisation and activations are left out,
    as in the literature.
    """
    image = torch.zeros(1, *image_shape, device=device_of(model))
    with evaluating(model), torch.no_grad(), _plain_attention(), FlopCounterMode(display=False) as counter:
        model(image)
    return int(counter.get_total_flops()) // 2


def cost(model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[Measurement, Measurement]:
    """`params` and `macs` of a model as measurements."""
    return (
        Measurement("params", count_params(model), "count"),
        Measurement("macs", count_macs(model, image_shape), "count"),
    )


@contextmanager
def _plain_attention() -> Iterator[None]:
    # the counter does not know the fused kernels of the CPU, and would count their work as nothing
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
