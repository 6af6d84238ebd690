"""The work of an operation, which says what share of a network runs in integers."""

from math import prod

from torch import fx

from kezuri.quantization.graph import is_weight, kind, shape

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
PRODUCTS = ("matmul", "bmm")


def macs(node: fx.Node) -> int:
    """Multiply-accumulates for one example."""
    outputs = prod(shape(node)[1:])
    source = node.args[0] if node.args else None
    if kind(node) in RECURRENT:
        return _of_steps(node)
    if not isinstance(source, fx.Node):
        return 0
    if kind(node) in PRODUCTS or kind(node) == "linear":
        return outputs * shape(source)[-1]
    other = node.args[1] if len(node.args) > 1 else None
    if not isinstance(other, fx.Node):
        return 0
    if kind(node) in CONVOLUTIONS:
        return outputs * prod(shape(other)[1:])
    if kind(node) in TRANSPOSED:
        return prod(shape(source)[1:]) * prod(shape(other)[1:])
    if kind(node) == "scaled_dot_product_attention":
        return (prod(shape(source)[1:]) + outputs) * shape(other)[-2]
    return 0


def _of_steps(node: fx.Node) -> int:
    """Of a recurrent layer: every weight matrix once a step."""
    sizes = [shape(one) for one in node.all_input_nodes if is_weight(one)]
    examples = 2
    steps = prod(shape(node.all_input_nodes[0])[:-1]) // examples
    return max(steps, 1) * sum(prod(size) for size in sizes if len(size) == 2)
