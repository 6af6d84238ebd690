"""A model as a graph of ATen operations, and the walk that relates its channel positions."""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from kezuri.core.errors import ModelError
from kezuri.core.progress import Progress
from kezuri.model import coupling_rules  # noqa: F401  registers the rules
from kezuri.model.channels import DEFAULT, SINGLE, Axes, Call, Channels, Choices, Tag, sizes
from kezuri.model.coupling_rule import rules, unknown
from kezuri.model.exporting import SILENT, export
from kezuri.model.shrink import FOLLOWED
from kezuri.model.sites import PRUNABLE, tensors_of
from kezuri.model.vanishing import vanishes

SAME = ("lift_fresh_copy", "to", "_to_copy", "alias", "detach", "clone", "contiguous", "detach_")
PASSES = 8
SPARE = 2**30
"""Bytes that positions may take beyond twice the model's weights."""
PARTS = (
    "chunk",
    "split",
    "split_with_sizes",
    "getitem",
    "slice",
    "narrow",
    "contiguous",
    "clone",
    "alias",
    "detach",
)
"""Operations whose result is a part of a parameter when they are given one."""


def trace(
    model: nn.Module, inputs: tuple[Tensor, ...], choices: Choices = DEFAULT, progress: Progress = SILENT
) -> Channels:
    """The channel positions of every tensor of the model, joined and pinned.

    Works on a copy in eval mode; the model is left alone.

    Raises:
        ModelError: torch.export cannot follow the model; the line it stopped at is named.
        NotFollowed: the positions take more than twice the memory of the model's weights, and 1 GB.
    """
    programs = [export(model, inputs, progress=progress)]
    if _has_unread_weights(programs[0], model):
        with suppress(ModelError):  # then it is known as it is in evaluation mode only
            programs.append(export(model, inputs, training=True))
    return follow(programs, model, choices, progress)


def _has_unread_weights(program: ExportedProgram, model: nn.Module) -> bool:
    """Whether layers are used in training only, such as auxiliary heads, if at all."""
    program.graph.eliminate_dead_code()
    named = program.graph_signature.inputs_to_parameters
    read = {named[node.name] for node in program.graph.nodes if node.name in named and node.users}
    return any(f"{name}.weight" not in read for name, m in model.named_modules() if isinstance(m, PRUNABLE))


def follow(
    programs: Sequence[ExportedProgram],
    model: nn.Module,
    choices: Choices = DEFAULT,
    progress: Progress = SILENT,
) -> Channels:
    """The channel positions of every tensor of an exported model.

    Which factor of a view may go shows only when attention or a convolution is met; then all is done anew.

    Args:
        programs: of the model, or of a copy of it: what it does in evaluation mode, and in training too.
        model: tells which parameters share their storage.
        choices: what is left to the user.
        progress: hears of every operation.
    """
    preferred = frozenset[Tag]()
    most = SPARE + 2 * sum(tensor.nbytes for tensor in model.state_dict().values())
    for program in programs:
        program.graph.eliminate_dead_code()
    for _ in range(PASSES):
        channels, weights = Channels(choices, preferred, most), _Weights(model)
        progress.start("following", total=sum(len(program.graph.nodes) for program in programs), done=0)
        try:
            for program in programs:
                _walk(program, weights, channels, progress)
        finally:
            progress.done()
        if channels.wanted <= preferred:
            break
        preferred |= channels.wanted
    return channels


def _walk(program: ExportedProgram, weights: "_Weights", channels: Channels, progress: Progress) -> None:
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    for node in program.graph.nodes:
        progress.advance(1, {})
        if node.op == "placeholder" and node.name in names:
            if node.users:
                weights.place(channels, node, names[node.name])
        elif node.op == "placeholder":
            reason = "input" if node.name in signature.user_inputs else "constant tensor"
            shape = sizes(getattr(node.meta.get("val"), "shape", ()))
            channels.axes[node] = [channels.fixed(size, reason) for size in shape]
            constant = program.constants.get(signature.inputs_to_lifted_tensor_constants.get(node.name, ""))
            _note_numbers(channels, node, constant)
        elif node.op == "output":
            for axes in Call(node, channels).inputs():
                _pin(channels, axes, "graph output")
        elif node.op == "call_function":
            _visit(program.graph_module, node, channels)


def _visit(module: fx.GraphModule, node: fx.Node, channels: Channels) -> None:
    """Follows one operation, or the operations of a part of the graph."""
    part = _part(module, node)
    if part is not None:
        channels.axes[node] = _inside(part, node, channels)
        return
    call = Call(node, channels)
    channels.expect(call)
    channels.axes[node] = axes = _followed(channels, call)
    channels.hold(axes)
    if vanishes(call):
        channels.vanishing.add(node)
    first = node.args[0] if node.args else None
    if call.name in SAME and (numbers := channels.numbers.get(first)) is not None:  # type: ignore[arg-type]
        channels.numbers[node] = numbers
    if call.name in PARTS and (name := channels.parameters.get(first)) is not None:  # type: ignore[arg-type]
        channels.parameters[node] = name


def _part(module: fx.GraphModule, node: fx.Node) -> fx.GraphModule | None:
    """The graph of a region with autocast or gradients switched, which is an operation of the outer graph."""
    if str(node.target) not in ("wrap_with_autocast", "wrap_with_set_grad_enabled"):
        return None
    inner = next(arg for arg in node.args if isinstance(arg, fx.Node) and arg.op == "get_attr")
    found = module.get_submodule(str(inner.target))
    return found if isinstance(found, fx.GraphModule) else None


def _inside(part: fx.GraphModule, node: fx.Node, channels: Channels) -> list[Axes]:
    given = [arg for arg in node.args if isinstance(arg, fx.Node) and arg.op != "get_attr"]
    inputs = [inner for inner in part.graph.nodes if inner.op == "placeholder"]
    for inner, outer in zip(inputs, given, strict=True):
        for known in (channels.axes, channels.parameters, channels.numbers):
            if outer in known:
                known[inner] = known[outer]  # type: ignore[assignment]
        if outer in channels.vanishing:
            channels.vanishing.add(inner)
    for inner in part.graph.nodes:
        if inner.op == "call_function":
            _visit(part, inner, channels)
    result = part.graph.output_node().args[0]
    results = list(result) if isinstance(result, list | tuple) else [result]
    if all(inner in channels.vanishing for inner in results):
        channels.vanishing.add(node)
    return [channels.axes[inner] for inner in results]  # type: ignore[index, misc]


def _note_numbers(channels: Channels, node: fx.Node, tensor: object) -> None:
    """Whole numbers that do not change may say which channels are picked."""
    if isinstance(tensor, Tensor) and tensor.dtype in (torch.int32, torch.int64) and tensor.dim() == 1:
        channels.numbers[node] = tensor.cpu().numpy().astype(np.int64)


def _followed(channels: Channels, call: Call) -> Axes | list[Axes]:
    """What the operation's rule says, or pinned where it has none or meets a form it does not know."""
    if not call.gives_tensors:
        channels.unknown.add(call.node)
        return []
    if call.name not in rules or not call.ordinary:
        return unknown(channels, call)
    try:
        axes = rules[call.name](channels, call)
        return axes if call.fits(axes) else unknown(channels, call)
    except (LookupError, ValueError, TypeError):  # TypeError: a size that varies where a number is needed
        return unknown(channels, call)


class _Weights:
    """Parameters and buffers of a model; those that share their storage share their positions.

    They are looked up in the model, as a copy of it no longer shares storage between them.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.tensors = tensors_of(model, aliases=True)
        self.names = {id(tensor): name for name, tensor in tensors_of(model).items()}
        self.stored: dict[object, Axes] = {}

    def place(self, channels: Channels, node: fx.Node, alias: str) -> None:
        tensor = self.tensors[alias]
        name = self.names[id(tensor)]
        where = (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.data_ptr() else id(tensor)
        if where not in self.stored:
            self.stored[where] = [
                channels.fixed(1, SINGLE) if size == 1 else channels.fresh(size) for size in tensor.shape
            ]
        axes = self.stored[where]
        channels.axes[node] = axes
        channels.place(name, axes)
        channels.parameters[node] = name
        channels.vanishing.add(node)
        _note_numbers(channels, node, tensor)
        self._doubt(channels, axes, name)

    def _doubt(self, channels: Channels, axes: Axes, name: str) -> None:
        owner = self.model.get_submodule(name.rpartition(".")[0])
        if not isinstance(owner, FOLLOWED):
            for ids in axes:
                channels.suspect(ids, f"{type(owner).__name__} may hold literal sizes")


def _pin(channels: Channels, axes: Axes, reason: str) -> None:
    for ids in axes:
        channels.pin(ids, reason)
