"""A model as a graph of ATen operations, and the walk that relates its channel positions."""

import copy
import inspect
import logging
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.fx import config as fx_config

from kezuri.core.errors import ModelError, NotFollowed
from kezuri.model import coupling_rules  # noqa: F401  registers the rules
from kezuri.model.channels import DEFAULT, SINGLE, Axes, Call, Channels, Choices, Tag, sizes
from kezuri.model.coupling_rule import rules, unknown
from kezuri.model.modes import fused_attention_off
from kezuri.model.shrink import FOLLOWED
from kezuri.model.sites import PRUNABLE, tensors_of
from kezuri.model.vanishing import vanishes

SAME = ("lift_fresh_copy", "to", "_to_copy", "alias", "detach", "clone", "contiguous", "detach_")
PASSES = 8
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


def example_batch(model: nn.Module, example_inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs on the model's device; a batch of one is repeated, as size 1 hides what is a batch."""
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    device = next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))
    moved = tuple(tensor.detach().to(device) for tensor in inputs)
    if all(tensor.dim() > 0 and len(tensor) == 1 for tensor in moved):
        return tuple(tensor.repeat(2, *[1] * (tensor.dim() - 1)) for tensor in moved)
    return moved


def trace(model: nn.Module, inputs: tuple[Tensor, ...], choices: Choices = DEFAULT) -> Channels:
    """The channel positions of every tensor of the model, joined and pinned.

    Works on a copy in eval mode; the model is left alone.

    Raises:
        ModelError: torch.export cannot follow the model; the line it stopped at is named.
    """
    programs = [export(model, inputs)]
    if _has_unread_weights(programs[0], model):
        with suppress(ModelError):  # then it is known as it is in evaluation mode only
            programs.append(export(model, inputs, training=True))
    return follow(programs, model, choices)


def _has_unread_weights(program: ExportedProgram, model: nn.Module) -> bool:
    """Whether layers are used in training only, such as auxiliary heads, if at all."""
    program.graph.eliminate_dead_code()
    named = program.graph_signature.inputs_to_parameters
    read = {named[node.name] for node in program.graph.nodes if node.name in named and node.users}
    return any(f"{name}.weight" not in read for name, m in model.named_modules() if isinstance(m, PRUNABLE))


def follow(programs: Sequence[ExportedProgram], model: nn.Module, choices: Choices = DEFAULT) -> Channels:
    """The channel positions of every tensor of an exported model.

    Which factor of a view may go shows only when attention or a convolution is met; then all is done anew.

    Args:
        programs: of the model, or of a copy of it: what it does in evaluation mode, and in training too.
        model: tells which parameters share their storage.
        choices: what is left to the user.
    """
    preferred = frozenset[Tag]()
    for _ in range(PASSES):
        channels, weights = Channels(choices, preferred), _Weights(model)
        for program in programs:
            program.graph.eliminate_dead_code()
            _walk(program, weights, channels)
        if channels.wanted <= preferred:
            break
        preferred |= channels.wanted
    return channels


def _walk(program: ExportedProgram, weights: "_Weights", channels: Channels) -> None:
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    for node in program.graph.nodes:
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
    channels.axes[node] = _followed(channels, call)
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


def export(
    model: nn.Module, inputs: tuple[Tensor, ...], *, any_batch: bool = False, training: bool = False
) -> ExportedProgram:
    """The model's graph of ATen operations, of a copy.

    Args:
        model: left alone.
        inputs: an example of each.
        any_batch: whether the graph takes batches of any size, where the model does.
        training: whether it is what the model does in training mode; evaluation mode if not.

    Raises:
        ModelError: torch.export cannot follow the model; the line it stopped at is named.
    """
    twin = copy.deepcopy(model).train(training)
    shapes: tuple[object, ...] | None = None
    if any_batch:
        shapes = tuple({0: Dim.AUTO} if tensor.dim() else None for tensor in inputs)
        kinds = [parameter.kind for parameter in inspect.signature(twin.forward).parameters.values()]
        shapes = (shapes,) if kinds and kinds[0] is inspect.Parameter.VAR_POSITIONAL else shapes
    with _plain_tracing():
        try:
            return torch.export.export(twin, inputs, dynamic_shapes=shapes, strict=False)
        except Exception as error:
            raise _refusal(twin, inputs, error) from error


@contextmanager
def _plain_tracing() -> Iterator[None]:
    """No gradients and no stack traces, as they take time."""
    quiet = fx_config.do_not_emit_stack_traces
    fx_config.do_not_emit_stack_traces = True
    loud = logging.getLogger("torch").level
    logging.getLogger("torch").setLevel(logging.CRITICAL)  # what matters comes back as an exception
    try:
        quietly = (
            redirect_stdout(StringIO()),
            redirect_stderr(StringIO()),
        )  # it prints the graph it gave up on
        with torch.no_grad(), fused_attention_off(), warnings.catch_warnings(), quietly[0], quietly[1]:
            # recurrent layers store their weights in a list; the model here is a copy
            warnings.filterwarnings("ignore", "The tensor attributes? .* assigned during export")
            yield
    finally:
        fx_config.do_not_emit_stack_traces = quiet
        logging.getLogger("torch").setLevel(loud)


def _refusal(model: nn.Module, inputs: tuple[Tensor, ...], error: Exception) -> ModelError:
    where = _users_line(error)
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
    try:
        with torch.no_grad():
            model(*inputs)
    except Exception as plain:
        return ModelError(
            f"the model does not accept an input of shape {shapes}{_users_line(plain)}: {_first_line(plain)}"
        )
    return NotFollowed(
        f"torch.export cannot follow the model{where}: {_first_line(error)}. Rewrite that line so that no "
        "Python decision or size depends on the values of a tensor (torch.where instead of `if`, a fixed "
        "size instead of a count), or move it out of `forward`"
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def _users_line(error: Exception) -> str:
    """The deepest line outside torch and this package."""
    own = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(own)]
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno} (`{frames[-1].line}`)" if frames else ""
