"""Parameters, and multiply-accumulates of one image or of any example."""

from math import prod

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kezuri.core.measurement import Measurement
from kezuri.model.modes import device_of, evaluating, frozen, fused_attention_off

Shape = tuple[int, ...]
Example = tuple[int, int, int] | Tensor | tuple[Tensor, ...]


def count_params(model: nn.Module) -> int:
    """Numbers that training may change; shared ones count once, buffers not at all."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, example: Example) -> int:
    """Multiply-accumulates for one example in convolutions, matrix products, attention and recurrent layers.

    Zero weights count: masks save no operations, cuts do. Biases, normalisation and activations are left out,
    as in the literature.

    Args:
        model: left as it is.
        example: the shape of an image, (channels, height, width); or a batch such as the model takes, for
            the share of one: what the batch takes, divided by its length along dimension 0 (not divided where
            several inputs differ in it).
    """
    batch = _batch(example, device_of(model))
    counter = FlopCounterMode(display=False, custom_mapping=UNKNOWN)
    # the counter does not know the fused kernels of the CPU, and would count their work as nothing
    plain = (fused_attention_off(), sdpa_kernel(SDPBackend.MATH))
    with evaluating(model), frozen(model), torch.no_grad(), plain[0], plain[1], counter:
        model(*batch)
    total = int(counter.get_total_flops()) // 2
    lengths = {len(part) if part.dim() else 0 for part in batch}
    return total // lengths.pop() if len(lengths) == 1 and lengths != {0} else total


def cost(model: nn.Module, image_shape: tuple[int, int, int]) -> tuple[Measurement, Measurement]:
    """`params` and `macs` of a model as measurements."""
    return (
        Measurement("params", count_params(model), "count"),
        Measurement("macs", count_macs(model, image_shape), "count"),
    )


def _batch(example: Example, device: torch.device) -> list[Tensor]:
    if isinstance(example, Tensor):
        return [example.to(device)]
    shape = [size for size in example if isinstance(size, int)]
    if shape:
        return [torch.zeros(1, *shape, device=device)]
    return [part.to(device) for part in example if isinstance(part, Tensor)]


def _recurrent_flops(inputs: Shape, to_hidden: Shape, in_hidden: Shape, *_: object, **__: object) -> int:
    """Of one layer and direction, whose two matrices meet every step of every sequence, (steps, batch, …)."""
    return 2 * inputs[0] * inputs[1] * (prod(to_hidden) + prod(in_hidden))


# what the counter takes for nothing: the kernel that LSTMs run in on the CPU
UNKNOWN = {torch.ops.aten.mkldnn_rnn_layer: _recurrent_flops}
