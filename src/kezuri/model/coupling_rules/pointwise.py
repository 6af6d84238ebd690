"""Operations that treat every channel alike and alone, and those that reduce or pool some dimensions."""

from kezuri.model.channels import SINGLE, Axes, Call, Channels
from kezuri.model.coupling_rule import rule
from kezuri.model.coupling_rules.layers import PIXELS


@rule("add", "sub", "rsub", "mul", "div", "maximum", "minimum", "pow", "where", "clamp", "clamp_min")
@rule("clamp_max", "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "softplus")
@rule("sigmoid", "tanh", "hardtanh", "hardsigmoid", "hardswish", "log_sigmoid", "exp", "sqrt", "rsqrt", "abs")
@rule("neg", "square", "dropout", "feature_dropout", "clone", "contiguous", "detach", "detach_copy", "alias")
@rule("to", "_to_copy", "type_as", "lift_fresh_copy", "copy", "erf", "sin", "cos", "log", "log1p")
@rule(
    "expm1", "sign", "floor", "ceil", "round", "reciprocal", "eq", "ne", "lt", "le", "gt", "ge", "logical_and"
)
@rule("logical_or", "logical_not", "masked_fill", "softshrink", "hardshrink", "lerp")
@rule("alpha_dropout", "isnan", "isinf", "nan_to_num", "zeros_like", "ones_like", "full_like", "empty_like")
@rule(
    "rand_like", "randn_like", "threshold", "fmod", "remainder", "floor_divide", "atan2", "addcmul", "addcdiv"
)
@rule("bitwise_and", "bitwise_or", "bitwise_not", "fill", "trunc", "logit", "special_expit", "special_erf")
@rule("bernoulli", "rrelu", "atan", "sinh", "cosh", "asinh", "_assert_tensor_metadata")
@rule("logaddexp", "exp2", "log2", "xlogy", "heaviside", "zero", "real", "imag", "conj", "angle")
@rule("__and_", "__or_", "__xor_", "clip", "true_divide", "multiply", "subtract")
def pointwise(channels: Channels, call: Call) -> Axes:
    """Joins dimensions of equal size, after broadcasting."""
    shape = call.shape
    result: Axes = [channels.fixed(size, SINGLE) for size in shape]
    seen = [False] * len(shape)
    for axes in call.inputs():
        first = len(shape) - len(axes)
        for dim, ids in enumerate(axes, start=first):
            if len(ids) != shape[dim]:
                continue
            if seen[dim]:
                channels.join(result[dim], ids)
            # what is fixed goes on: the other is pinned by now, and a view must not take it for channels
            if not seen[dim] or (channels.tag(result[dim]) is None and (ids < 0).all()):
                result[dim] = ids
            seen[dim] = True
    return result


@rule(
    "mean",
    "amax",
    "amin",
    "var",
    "std",
    "sum",
    "norm",
    "linalg_vector_norm",
    "argmax",
    "argmin",
    "all",
    "any",
)
@rule("logsumexp", "prod", "median")
def reduction(channels: Channels, call: Call) -> Axes:
    """Channels may stay beside what is reduced; inside it only where zeros add nothing to a sum."""
    x = call.axes("self")
    dims = call.arguments.get("dim")
    dims = range(len(x)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    gone = {dim % len(x) for dim in dims} if x else set()
    adds = call.name in ("sum", "norm", "linalg_vector_norm") and call.vanishes("self")
    if not adds:
        for dim in gone:
            channels.pin(x[dim], f"aten.{call.name} runs over the channels")
    if call.arguments.get("keepdim"):
        return [channels.fixed(1, SINGLE) if dim in gone else ids for dim, ids in enumerate(x)]
    return [ids for dim, ids in enumerate(x) if dim not in gone]


@rule("softmax", "log_softmax", "cumsum", "argsort", "logcumsumexp", "_softmax", "cumprod")
def along(channels: Channels, call: Call) -> Axes:
    """Pins the dimension whose entries compete."""
    x = call.axes("self")
    channels.pin(x[call.arguments["dim"]], f"aten.{call.name} runs over the channels")
    return x


@rule("max_pool1d", "avg_pool1d", "adaptive_avg_pool1d", "upsample_nearest1d", "upsample_linear1d")
@rule("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "upsample_nearest2d", "upsample_bilinear2d")
@rule("max_pool3d", "avg_pool3d", "adaptive_avg_pool3d", "upsample_nearest3d", "upsample_trilinear3d")
@rule("upsample_bicubic2d", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d")
@rule("_upsample_nearest_exact2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")
def pooling(channels: Channels, call: Call) -> Axes:
    """Works inside the last one, two or three dimensions."""
    x = call.axes("self") or call.axes("input")
    pooled = int(call.name.removesuffix("_aa")[-2])
    for ids in x[-pooled:]:
        channels.pin(ids, f"aten.{call.name} runs over the channels")
    return [*x[:-pooled], *(channels.fixed(size, PIXELS) for size in call.shape[-pooled:])]


@rule("max_unpool2d", "max_unpool3d")
def unpooling(channels: Channels, call: Call) -> Axes:
    """Puts pixels back where a pooling took them from."""
    x, places = call.axes("self"), call.axes("indices")
    pooled = int(call.name[-2])
    for ids, own in zip(x[:-pooled], places[:-pooled], strict=True):
        channels.join(ids, own)
    return [*x[:-pooled], *(channels.fixed(size, PIXELS) for size in call.shape[-pooled:])]


@rule("glu")
def glu(channels: Channels, call: Call) -> Axes:
    """The first half times the sigmoid of the second."""
    x = call.axes("self")
    dim = call.arguments["dim"] % len(x)
    halves = x[dim].reshape(2, -1)
    channels.join(halves[0], halves[1])
    x[dim] = halves[0].copy()
    return x


@rule("adaptive_max_pool2d", "max_pool2d_with_indices", "adaptive_max_pool1d")
def pooling_with_places(channels: Channels, call: Call) -> list[Axes]:
    """Gives the values and where they were."""
    x, pooled = call.axes("self"), 1 if "1d" in call.name else 2
    for ids in x[-pooled:]:
        channels.pin(ids, f"aten.{call.name} runs over the channels")
    pixels = [channels.fixed(size, PIXELS) for size in call.shapes[0][-pooled:]]
    return [[*x[:-pooled], *pixels], [*x[:-pooled], *pixels]]


@rule("max", "min", "topk", "sort", "kthvalue", "mode", "var_mean", "std_mean")
def competition(channels: Channels, call: Call) -> Axes | list[Axes]:
    """Of two tensors the pointwise maximum; else a dimension is pinned and shortened."""
    if call.arguments.get("other") is not None:
        return pointwise(channels, call)
    x = call.axes("self")
    dims = call.arguments.get("dim")
    dims = range(len(x)) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {dim % len(x) for dim in dims}
    for dim in gone:
        channels.pin(x[dim], f"aten.{call.name} runs over the channels")
    if not isinstance(call.node.meta["val"], list | tuple):
        return [ids for dim, ids in enumerate(x) if dim not in gone]
    return [_around(channels, x, gone, shape) for shape in call.shapes]


def _around(channels: Channels, x: Axes, gone: set[int], shape: tuple[int, ...]) -> Axes:
    if len(shape) < len(x):
        return [ids for dim, ids in enumerate(x) if dim not in gone]
    reason = "entries that were picked"
    return [channels.fixed(shape[dim], reason) if dim in gone else ids for dim, ids in enumerate(x)]


@rule("grid_sampler")
def sampling(channels: Channels, call: Call) -> Axes:
    """Moves pixels; the grid has none of the channels."""
    x = call.axes("input")
    return [*x[:2], *(channels.fixed(size, PIXELS) for size in call.shape[2:])]


@rule("fft_fft", "fft_ifft", "fft_rfft", "fft_irfft", "fft_fft2", "fft_ifft2", "fft_rfft2", "fft_irfft2")
@rule("fft_fftn", "fft_ifftn", "fft_rfftn", "fft_irfftn")
def frequencies(channels: Channels, call: Call) -> Axes:
    """Mixes some dimensions, which are pinned; their sizes may change."""
    x, dims = call.axes("self"), call.arguments["dim"]
    dims = range(len(x)) if dims is None else [dims] if isinstance(dims, int) else dims
    mixed = {dim % len(x) for dim in dims}
    for dim in mixed:
        channels.pin(x[dim], f"aten.{call.name} mixes the channels")
    return [
        channels.fixed(size, PIXELS) if dim in mixed else ids
        for dim, (ids, size) in enumerate(zip(x, call.shape, strict=True))
    ]


@rule(
    "zeros",
    "new_zeros",
    "full",
    "new_full",
    "ones",
    "new_ones",
    "empty",
    "new_empty",
    "arange",
    "eye",
    "linspace",
)
@rule("scalar_tensor", "randn", "rand")
def creation(channels: Channels, call: Call) -> Axes:
    """Zeros of a size may be the first state of recurrent units, and go with them; others stay."""
    if call.name not in ("zeros", "new_zeros"):
        return [channels.fixed(size, "constant tensor") for size in call.shape]
    result: Axes = [channels.fresh(size) if size > 1 else channels.fixed(size, SINGLE) for size in call.shape]
    for ids in result:
        channels.suspect(ids, f"literal size in {call.name}")
    return result


@rule("meshgrid")
def grid(channels: Channels, call: Call) -> list[Axes]:
    """Coordinates; none of them is a channel."""
    return [[channels.fixed(size, PIXELS) for size in shape] for shape in call.shapes]
