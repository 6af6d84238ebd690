"""The second result of a cut: the model's torch.export program, with every literal size following."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from kezuri.core.errors import ModelError
from kezuri.model.channels import Call, Channels, Choices
from kezuri.model.exported import follow
from kezuri.model.exporting import export
from kezuri.model.modes import Mode, NormMode, device_of
from kezuri.model.resizing import Survivors, resize
from kezuri.model.shrink import Structure, put_, selected
from kezuri.model.sites import tensors_of

NORMS = ("batch_norm", "instance_norm")
DROPOUTS = ("dropout", "feature_dropout", "alpha_dropout")
"""Operations that act otherwise in training; which argument says so is in `_training_argument`."""


class Program(fx.GraphModule):
    """A model as the graph of operations that its `forward` was, free of the user's class.

    It computes, trains (`train()` and `eval()` switch batch normalisation and dropout), moves between
    devices, saves its state dict under the model's own names, and takes batches of any size if the model
    could be exported that way. Code that depends on `self.training` in other ways is as it was in evaluation
    mode, and dropout inside fused attention is off.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # torch warns when the description of inputs and outputs is copied; it never changes
        memo |= {id(spec): spec for spec in (self._in_spec, self._out_spec)}
        memo[id(self.graph)] = _copied(self.graph)
        return cast(Self, super().__deepcopy__(memo))


MODES: dict[str, tuple[type[Mode], tuple[str, ...]]] = {
    "training_mode": (Mode, DROPOUTS),
    "norms_training_mode": (NormMode, NORMS),
}
"""The parts of a program that its operations ask for their mode, by name."""


@dataclass(frozen=True, eq=False)
class Blueprint:
    """A model's exported program, and what every position of every tensor in it is.

    Attributes:
        module: the program as it is, uncut.
        channels: its positions.
        calls: its operations by name.
        training: the mode the model was in, which a built program takes.
        batch: the only batch size it takes; None if it takes any.
        aliases: further names of parameters that the model holds twice, with the first.
    """

    module: fx.GraphModule
    channels: Channels
    calls: dict[str, fx.Node]
    training: bool
    batch: int | None
    aliases: Mapping[str, str]

    @classmethod
    def of(cls, model: nn.Module, inputs: tuple[Tensor, ...], choices: Choices) -> "Blueprint":
        """Exports the model, for batches of any size where that can be.

        Raises:
            ModelError: torch.export cannot follow the model.
        """
        program = _exported(model, inputs)
        channels = follow([program], model, choices)
        calls = {node.name: node for node in program.graph.nodes if node.op == "call_function"}
        module, aliases = _module(program, model)
        return cls(module, channels, calls, model.training, _only_batch(program), aliases)

    def build(self, structure: Structure) -> Program:
        """The program that holds only what the structure keeps."""
        graph = _copied(self.module.graph)
        survivors = Survivors(self.channels, _removed(self.channels, structure))
        for node in list(graph.nodes):
            if node.op == "call_function" and node.name in self.calls:
                resize(survivors, Call(self.calls[node.name], self.channels), node)
        graph.eliminate_dead_code()
        _switchable(graph, self.module)
        for name, table in survivors.tables.items():
            self.module.register_buffer(name, torch.from_numpy(table).to(device_of(self.module)))
        program: Program = copy.deepcopy(Program(self.module, graph))
        program._non_persistent_buffers_set.update(survivors.tables)
        _shrink_(program, structure)
        for alias, name in self.aliases.items():
            _hold(program, alias, tensors_of(program, aliases=True).get(name))
        return program.train(self.training)


def as_program(model: nn.Module, inputs: tuple[Tensor, ...]) -> Program:
    """A model as a program, whole; the model is left alone.

    Args:
        inputs: an example of each; batches of any size are taken where that can be.

    Raises:
        ModelError: torch.export cannot follow the model.
    """
    module, aliases = _module(_exported(model, inputs), model)
    graph = _copied(module.graph)
    _switchable(graph, module)
    program = copy.deepcopy(Program(module, graph))
    for alias, name in aliases.items():
        _hold(program, alias, tensors_of(program, aliases=True).get(name))
    return program.train(model.training)


def _exported(model: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """For batches of any size, where that can be."""
    try:
        return export(model, inputs, any_batch=True)
    except ModelError:
        return export(model, inputs)


def _module(program: ExportedProgram, model: nn.Module) -> tuple[fx.GraphModule, dict[str, str]]:
    """The program as a module, and further names of parameters that the model holds twice, with the first."""
    for name in (*model._modules, *model._parameters, *model._buffers):
        if hasattr(fx.GraphModule(nn.Module(), fx.Graph()), name):
            raise ModelError(f"a part of the model is named {name!r}, which torch.fx needs itself: rename it")
    module = program.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    names = {id(tensor): name for name, tensor in tensors_of(model).items()}
    every = {alias: names[id(tensor)] for alias, tensor in tensors_of(model, aliases=True).items()}
    aliases = {alias: name for alias, name in every.items() if alias != name}
    _rename(module, aliases)
    return module, aliases


def _rename(module: fx.GraphModule, aliases: Mapping[str, str]) -> None:
    """Has a tensor that the model holds twice go by its first name."""
    tensors = tensors_of(module, aliases=True)
    for node in module.graph.nodes:
        if node.op == "get_attr" and node.target in aliases:
            _hold(module, aliases[node.target], tensors[node.target])
            node.target = aliases[node.target]


def _hold(module: nn.Module, name: str, tensor: Tensor | None) -> None:
    """Makes a tensor known by a further name."""
    *owners, leaf = name.split(".")
    home = module
    for owner in owners:
        if owner not in home._modules:
            home.add_module(owner, nn.Module())
        home = home.get_submodule(owner)
    if isinstance(tensor, nn.Parameter):
        home.register_parameter(leaf, tensor)
    elif tensor is not None:
        home.register_buffer(leaf, tensor)


def _only_batch(program: ExportedProgram) -> int | None:
    """The batch size that the model's code made a plain number, as `len(x)` does."""
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    first = [node.meta["val"].shape[0] for node in inputs if getattr(node.meta.get("val"), "shape", ())]
    plain = [size for size in first if isinstance(size, int)]
    return plain[0] if plain and len(plain) == len(first) else None


def _copied(graph: fx.Graph) -> fx.Graph:
    """As a deep copy, but for the code generator, which holds nothing of its own and warns when copied."""
    result = fx.Graph()
    result.output(result.graph_copy(graph, {}))
    result._codegen = graph._codegen
    return result


def _removed(channels: Channels, structure: Structure) -> np.ndarray:
    gone = []
    for name, dims in structure.kept.items():
        for dim, positions in dims.items():
            ids = channels.tensors[name][dim]
            left = np.ones(len(ids), dtype=bool)
            left[list(positions)] = False
            gone.append(ids[left])
    ids = np.concatenate(gone) if gone else np.zeros(0, dtype=np.int64)
    return channels.sets.roots(ids[ids >= 0])


@torch.no_grad()
def _shrink_(program: Program, structure: Structure) -> None:
    tensors = tensors_of(program, aliases=True)
    done = set[int]()
    for name, dims in structure.kept.items():
        if name in tensors and id(tensors[name]) not in done:
            done.add(id(tensors[name]))
            put_(tensors[name], selected(tensors[name], dims))


def _switchable(graph: fx.Graph, module: fx.GraphModule) -> None:
    """Has operations that act otherwise in training ask which mode it is."""
    asked: dict[str, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or not hasattr(node.target, "_schema"):
            continue
        at = _training_argument(node.target)
        if at is None or len(node.args) <= at or node.args[at] is not False:
            continue
        name = next(name for name, (_, acting) in MODES.items() if _plain_name(node.target) in acting)
        if name not in asked:
            module.add_module(name, MODES[name][0]())
            with graph.inserting_before(next(iter(graph.nodes))):
                asked[name] = graph.call_module(name)
        node.update_arg(at, asked[name])


def _training_argument(target: Callable[..., object]) -> int | None:
    if _plain_name(target) not in (*NORMS, *DROPOUTS):
        return None
    names = [argument.name for argument in target._schema.arguments]  # type: ignore[attr-defined]
    return next((names.index(name) for name in ("training", "train") if name in names), None)


def _plain_name(target: Callable[..., object]) -> str:
    name: str = target._schema.name  # type: ignore[attr-defined]
    return name.removeprefix("aten::").removesuffix("_")
