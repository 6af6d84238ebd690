"""Is a masked channel zero in this tensor? Only then does it add nothing to a sum that no weight enters."""

from collections.abc import Callable
from typing import Any

from torch import fx

from kezuri.model.channels import Call

_tables: dict[str, Callable[[Call], bool]] = {}


def vanishes(call: Call) -> bool:
    """Whether the channels that are masked are zero in the result of this operation."""
    known = _tables.get(call.name)
    return known is not None and known(call)


def _of(*operations: str) -> Callable[[Callable[[Call], bool]], Callable[[Call], bool]]:
    def add(function: Callable[[Call], bool]) -> Callable[[Call], bool]:
        _tables.update(dict.fromkeys(operations, function))
        return function

    return add


def _tensors(call: Call) -> list[fx.Node]:
    return [node for node in call.node.all_input_nodes if node in call.channels.axes]


@_of("relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "tanh", "hardswish", "erf")
@_of("sqrt", "abs", "neg", "square", "sign", "sin", "expm1", "log1p", "dropout", "feature_dropout", "clone")
@_of("contiguous", "detach", "detach_copy", "alias", "to", "_to_copy", "type_as", "lift_fresh_copy")
@_of(
    "hardshrink",
    "softshrink",
    "alpha_dropout",
    "round",
    "floor",
    "ceil",
    "bernoulli",
)
@_of("permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "expand_as", "view", "reshape")
@_of("_unsafe_view", "view_as", "reshape_as", "flatten", "unflatten", "swapaxes", "swapdims", "unfold")
@_of("chunk", "split", "split_with_sizes", "tensor_split", "unbind", "getitem", "select", "slice", "narrow")
@_of("roll", "flip", "repeat", "repeat_interleave", "tile", "pixel_shuffle", "pixel_unshuffle", "index")
@_of(
    "channel_shuffle",
    "native_channel_shuffle",
    "index_select",
    "mean",
    "sum",
    "im2col",
    "col2im",
    "masked_fill",
)
@_of("max_pool1d", "avg_pool1d", "adaptive_avg_pool1d", "upsample_nearest1d", "upsample_linear1d")
@_of("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "upsample_nearest2d", "upsample_bilinear2d")
@_of("max_pool3d", "avg_pool3d", "adaptive_avg_pool3d", "upsample_nearest3d", "upsample_trilinear3d")
@_of("upsample_bicubic2d", "adaptive_max_pool2d", "reflection_pad1d", "reflection_pad2d", "replication_pad2d")
@_of("norm", "linalg_vector_norm", "prelu", "grid_sampler", "cumsum", "amax", "amin", "glu", "max_unpool2d")
@_of("fft_fft", "fft_ifft", "fft_rfft", "fft_irfft", "fft_fft2", "fft_ifft2", "fft_rfft2", "fft_irfft2")
@_of("fft_fftn", "fft_ifftn", "fft_rfftn", "fft_irfftn", "real", "conj", "view_as_real", "view_as_complex")
@_of("movedim", "moveaxis", "mT", "mH", "numpy_T", "adjoint", "max_unpool3d")
def _as_its_input(call: Call) -> bool:
    """Zero of zero."""
    return bool(_tensors(call)) and _tensors(call)[0] in call.channels.vanishing


@_of("add", "sub", "cat", "stack", "maximum", "minimum", "concat", "concatenate")
def _all(call: Call) -> bool:
    scalars = [call.arguments.get(name) for name in ("self", "other")]
    plain = all(not isinstance(value, int | float) or value == 0 for value in scalars)
    return plain and all(node in call.channels.vanishing for node in _tensors(call))


@_of("mul", "multiply", "logical_and", "__and_")
def _any(call: Call) -> bool:
    return any(node in call.channels.vanishing for node in _tensors(call))


@_of("where")
def _branches(call: Call) -> bool:
    return call.vanishes("self") and call.vanishes("other")


@_of("div", "true_divide")
def _numerator(call: Call) -> bool:
    return call.vanishes("self")


@_of("pow")
def _power(call: Call) -> bool:
    exponent = call.arguments.get("exponent")
    return call.vanishes("self") and isinstance(exponent, int | float) and exponent > 0


@_of("clamp", "hardtanh", "clamp_min", "clamp_max")
def _range(call: Call) -> bool:
    low, high = call.arguments.get("min"), call.arguments.get("max")
    if call.name == "hardtanh":
        low, high = call.arguments["min_val"], call.arguments["max_val"]
    return call.vanishes("self") and _at_most(low, 0) and _at_most(0, high)


def _at_most(low: Any, high: Any) -> bool:
    known = [value for value in (low, high) if value is not None]
    return all(isinstance(value, int | float) for value in known) and (len(known) < 2 or known[0] <= known[1])


@_of("pad")
def _padded(call: Call) -> bool:
    return call.vanishes("self") and not call.arguments.get("value")


@_of(
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "linear",
    "bilinear",
    "addmm",
)
def _written(call: Call) -> bool:
    """A masked output has no weights and no bias; what goes in does not matter."""
    weight = "mat2" if call.name == "addmm" else "weight"
    bias = call.arguments.get("self" if call.name == "addmm" else "bias")
    return call.vanishes(weight) and (bias is None or call.vanishes(bias))


@_of("batch_norm", "instance_norm", "layer_norm", "group_norm", "rms_norm")
def _normalised(call: Call) -> bool:
    """Scale and shift are masked; without them a mean of zero is taken from zeros."""
    bias = call.arguments.get("bias")
    scaled = call.arguments.get("weight") is not None or call.vanishes("input")
    return scaled and (bias is None or call.vanishes(bias))


@_of("embedding")
def _looked_up(call: Call) -> bool:
    return call.vanishes("weight")


@_of("zeros", "zeros_like", "new_zeros", "zero")
def _zeros(_: Call) -> bool:
    return True


@_of("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def _recurrent(call: Call) -> bool:
    """A unit without weights stays at its zero."""
    states = call.arguments["hx"]
    return all(
        state in call.channels.vanishing for state in (states if isinstance(states, list) else [states])
    )


@_of("matmul", "bmm", "mm", "baddbmm")
def _product(call: Call) -> bool:
    """Rows follow the left factor, columns the right one, and the batch either."""
    left, right = _tensors(call)[-2:]
    a, b = call.axes_of(left), call.axes_of(right)
    zero = [node in call.channels.vanishing for node in (left, right)]
    rows = zero[0] or len(a) < 2 or call.fixed(a[-2:-1])
    columns = zero[1] or len(b) < 2 or call.fixed(b[-1:])
    batch = any(zero) or call.fixed([*a[:-2], *b[:-2]])
    return rows and columns and batch and call.name != "baddbmm"


@_of("scaled_dot_product_attention")
def _attended(call: Call) -> bool:
    return call.vanishes("value")


@_of("einsum", "tensordot")
def _summed_products(call: Call) -> bool:
    return all(node in call.channels.vanishing or call.fixed(call.axes_of(node)) for node in _tensors(call))
