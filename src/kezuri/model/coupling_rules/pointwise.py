"""Operations that treat every channel alike and alone, and those that reduce or pool some dimensions."""

from kezuri.model.channels import SINGLE, Axes, Call, Channels
from kezuri.model.coupling_rule import rule
from kezuri.model.coupling_rules.layers import PIXELS


@rule("add", "sub", "rsub", "mul", "div", "maximum", "minimum", "pow", "where", "clamp", "clamp_min")
@rule("clamp_max", "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "softplus")
@rule("sigmoid", "tanh", "hardtanh", "hardsigmoid", "hardswish", "log_sigmoid", "exp", "sqrt", "rsqrt", "abs")
@rule("neg", "square", "dropout", "feature_dropout", "clone", "contiguous", "detach", "detach_copy", "alias")
@rule("to", "_to_copy", "type_as", "float", "lift_fresh_copy", "copy")
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
            if not seen[dim] or (result[dim] < 0).all():
                result[dim] = ids
            seen[dim] = True
    return result


@rule("mean", "sum", "amax", "amin")
def reduction(channels: Channels, call: Call) -> Axes:
    """Channels may stay beside what is reduced, not inside it."""
    x = call.axes("self")
    dims = call.arguments.get("dim")
    dims = range(len(x)) if dims is None or dims == [] else dims
    gone = {dim % len(x) for dim in dims} if x else set()
    for dim in gone:
        channels.pin(x[dim], f"aten.{call.name} runs over the channels")
    if call.arguments.get("keepdim"):
        return [channels.fixed(1, SINGLE) if dim in gone else ids for dim, ids in enumerate(x)]
    return [ids for dim, ids in enumerate(x) if dim not in gone]


@rule("softmax", "log_softmax")
def softmax(channels: Channels, call: Call) -> Axes:
    """Pins the dimension whose entries compete."""
    x = call.axes("self")
    channels.pin(x[call.arguments["dim"]], f"aten.{call.name} runs over the channels")
    return x


@rule("max_pool1d", "avg_pool1d", "adaptive_avg_pool1d", "upsample_nearest1d", "upsample_linear1d")
@rule("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "upsample_nearest2d", "upsample_bilinear2d")
@rule("max_pool3d", "avg_pool3d", "adaptive_avg_pool3d", "upsample_nearest3d", "upsample_trilinear3d")
def pooling(channels: Channels, call: Call) -> Axes:
    """Works inside the last one, two or three dimensions."""
    x = call.axes("self") or call.axes("input")
    pooled = int(call.name[-2])
    for ids in x[-pooled:]:
        channels.pin(ids, f"aten.{call.name} runs over the channels")
    return [*x[:-pooled], *(channels.fixed(size, PIXELS) for size in call.shape[-pooled:])]
