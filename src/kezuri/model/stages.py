"""A program in stages, each of which begins where a weight that changes is first read.

What comes before a stage is the same as long as the weights read there are, so that it can be kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, fx

from kezuri.core.errors import ModelError
from kezuri.model.channels import operation
from kezuri.model.in_place import out_of_place_, written
from kezuri.model.modes import device_of
from kezuri.model.pooling import pool_quickly_
from kezuri.model.program import Program

CHANNELWISE = ("relu", "relu6", "hardtanh", "leaky_relu", "sigmoid", "tanh", "silu", "gelu", "hardswish")
POOLS = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "pooled")

State = tuple[Any, ...]
"""The values that are still needed, between two operations."""


@dataclass(frozen=True)
class Rows:
    """A convolution and what follows it by channel: a row of the weight decides a channel of the result.

    Attributes:
        weight, bias: their names; both are handed in.
        result: which of the values after the stage it is, (B, rows, …).
    """

    weight: str
    bias: str | None
    result: int


@dataclass(frozen=True, eq=False)
class Stage:
    """Some operations in a row.

    Attributes:
        run: the state after it, from each value of the state before it and the tensors that are handed in.
        given: the names of those tensors.
        changing: the changing weights that it reads, which are among them.
        rows: where the stage is the first to read one and goes by rows.
    """

    run: Callable[..., State]
    given: tuple[str, ...]
    changing: tuple[str, ...]
    rows: Rows | None


def in_stages(program: Program, changing: Sequence[str], *, given: Sequence[str] = ()) -> list[Stage]:
    """A program in evaluation mode as stages, from the state (input,) to the state (answer,).

    Args:
        program: stays as it is, and holds the tensors that are not handed in.
        changing: parameters that are handed in, by name; those of more than one dimension begin stages.
        given: further tensors that are handed in.

    Raises:
        ModelError: the program takes or gives more than one tensor.
    """
    graph, answer = _copied(program)
    graph.output((answer,))
    return _cut(program, graph, set(changing), {*changing, *given})


def measuring_stages(program: Program, changing: Sequence[str]) -> tuple[list[Stage], list[str]]:
    """The same with batch normalisation by the statistics of the batch, which it gives in place of an answer.

    Returns:
        the stages, and the names of the statistics (running means and variances) that the last state holds,
        (channels,) each; the variance with Bessel's correction. A layer that is used twice is named twice.

    Raises:
        ModelError: the program takes or gives more than one tensor.
    """
    graph, _ = _copied(program)
    found: list[tuple[str, fx.Node]] = []
    for node in list(graph.nodes):
        if names := _statistics(node):
            values, scale, shift, *_ = node.args
            with graph.inserting_before(node):
                normed = graph.call_function(_by_batch, (values, scale, shift, node.args[7]))
                parts = [graph.call_function(_item, (normed, at)) for at in range(3)]
            node.replace_all_uses_with(parts[0])
            found += zip(names, parts[1:], strict=True)
    graph.output(tuple(node for _, node in found))
    return _cut(program, graph, set(changing), set(changing)), [name for name, _ in found]


def statistics_of(program: Program) -> list[str]:
    """The names of the running means and variances that batch normalisation reads, each once."""
    return list(dict.fromkeys(name for node in program.graph.nodes for name in _statistics(node)))


def _copied(program: Program) -> tuple[fx.Graph, fx.Node]:
    """The graph without its output, in evaluation mode, and the node that is the answer."""
    graph = fx.Graph()
    answer: Any = graph.graph_copy(program.graph, {})
    while isinstance(answer, tuple | list) and len(answer) == 1:
        answer = answer[0]
    inputs = sum(node.op == "placeholder" for node in graph.nodes)
    if inputs != 1 or not isinstance(answer, fx.Node):
        raise ModelError(f"a model of one input that gives one tensor is needed, this one takes {inputs}")
    for node in list(graph.nodes):
        if node.op == "call_module":  # says whether the program is in training mode
            for user in list(node.users):
                user.args = tuple(False if value is node else value for value in user.args)
            graph.erase_node(node)
    return graph, answer


def _statistics(node: fx.Node) -> tuple[str, ...]:
    """The names of the running mean and variance that an operation reads."""
    if node.op != "call_function" or operation(node) != "batch_norm":
        return ()
    held = node.args[3:5]
    return tuple(str(one.target) for one in held if isinstance(one, fx.Node) and one.op == "get_attr")


def _by_batch(values: Tensor, scale: Tensor | None, shift: Tensor | None, epsilon: float) -> State:
    mean, variance = values.new_zeros(2, values.shape[1])
    normed = F.batch_norm(values, mean, variance, scale, shift, True, 1.0, epsilon)
    return normed, mean, variance


def _item(values: State, at: int) -> Tensor:
    return cast(Tensor, values[at])


def _cut(program: Program, graph: fx.Graph, changing: set[str], given: set[str]) -> list[Stage]:
    graph.eliminate_dead_code()
    out_of_place_(graph)
    if device_of(program).type == "cpu":
        pool_quickly_(graph)
    nodes = [node for node in graph.nodes if node.op == "call_function"]
    alive = _alive(graph, nodes)
    unsettled = written(graph)
    edges, chain = _edges(program, nodes, changing)
    edges = [at for at in edges if not unsettled & set(alive[at])]
    by_rows = chain.start in (0, *edges) and chain.stop in edges
    stages = []
    for first, last in zip([0, *edges], [*edges, len(nodes)], strict=True):
        names = tuple(dict.fromkeys(name for node in nodes[first:last] for name in _read(node)))
        rows = None
        if by_rows and (first, last) == (chain.start, chain.stop):
            weight, bias = _weights(nodes[first])
            rows = Rows(
                str(weight.target), str(bias.target) if bias else None, alive[last].index(nodes[last - 1])
            )
        handed = tuple(name for name in names if name in given or (rows and name in (rows.weight, rows.bias)))
        run = _stage(program, nodes[first:last], alive[first], alive[last], handed)
        stages.append(Stage(run, handed, tuple(name for name in handed if name in changing), rows))
    return stages


def _read(node: fx.Node) -> list[str]:
    """The parameters and buffers that an operation reads."""
    return [str(source.target) for source in node.all_input_nodes if source.op == "get_attr"]


def _alive(graph: fx.Graph, nodes: Sequence[fx.Node]) -> list[list[fx.Node]]:
    """The values that are known before each operation and needed from there on; last, the answer."""
    place = {node: at for at, node in enumerate(nodes)}
    [source] = [node for node in graph.nodes if node.op == "placeholder"]
    last_use = {
        node: max((place.get(user, len(nodes)) for user in node.users), default=-1)
        for node in (source, *nodes)
    }
    alive = [[node for node in (source, *nodes[:at]) if last_use[node] >= at] for at in range(len(nodes))]
    alive[0] = [source]
    *_, output = graph.nodes
    return [*alive, list(cast(tuple[fx.Node, ...], output.args[0]))]


def _edges(program: Program, nodes: Sequence[fx.Node], changing: set[str]) -> tuple[list[int], range]:
    """Where stages begin, and which operations are a first convolution that goes by rows."""
    seen: set[str] = set()
    edges: list[int] = []
    chain = range(0)
    for at, node in enumerate(nodes):
        new = {name for name in _read(node) if name in changing} - seen
        if any(program.get_parameter(name).dim() > 1 for name in new):
            if not seen:
                chain = _chain(nodes, at)
                edges += [chain.stop] if chain else []
            edges.append(at)
        seen |= new
    return sorted({at for at in edges if 0 < at < len(nodes)}), chain


def _chain(nodes: Sequence[fx.Node], at: int) -> range:
    """A convolution and what follows it channel by channel; nothing where it is none, or has groups."""
    first = nodes[at]
    if operation(first) != "conv2d" or (len(first.args) > 6 and first.args[6] != 1) or first.kwargs:
        return range(0)
    if any(one is not None and one.op != "get_attr" for one in _weights(first)):
        return range(0)
    end = at + 1
    while end < len(nodes) and list(nodes[end - 1].users) == [nodes[end]]:
        if operation(nodes[end]) not in (*CHANNELWISE, *POOLS) or nodes[end].all_input_nodes != [
            nodes[end - 1]
        ]:
            break
        end += 1
    return range(at, end)


def _weights(node: fx.Node) -> tuple[fx.Node, fx.Node | None]:
    """The weight and the bias of a convolution."""
    _, weight, bias, *_ = (*node.args, None)
    return cast(fx.Node, weight), cast(fx.Node | None, bias)


def _stage(
    program: Program,
    nodes: Sequence[fx.Node],
    before: Sequence[fx.Node],
    after: Sequence[fx.Node],
    handed: Sequence[str],
) -> Callable[..., State]:
    """Some operations as a function of the values before them and the tensors that are handed in."""
    graph = fx.Graph()
    own: dict[fx.Node, fx.Node] = {node: graph.placeholder(f"before_{at}") for at, node in enumerate(before)}
    tensors = {name: graph.placeholder(f"given_{at}") for at, name in enumerate(handed)}

    def found(node: fx.Node) -> fx.Node:
        if node.op != "get_attr":
            return own[node]
        name = str(node.target)
        if name not in tensors:
            tensors[name] = graph.get_attr(name)
        return tensors[name]

    for node in nodes:
        own[node] = graph.node_copy(node, found)
    graph.output(tuple(found(node) for node in after))
    return fx.GraphModule(program, graph)
