"""Where torch.export cannot follow a model, what it can follow are often its modules."""

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from kezuri.core.errors import ModelError
from kezuri.model.channels import Choices
from kezuri.model.exported import trace
from kezuri.model.exporting import in_time
from kezuri.model.families import Coupling, Couplings, Layer
from kezuri.model.grouping import Grouped, group
from kezuri.model.sites import PRUNABLE, tensors_of

Calls = dict[nn.Module, list[tuple[Tensor, ...] | None]]


def group_parts(
    model: nn.Module, inputs: tuple[Tensor, ...], choices: Choices, why: str, deadline: float
) -> Grouped:
    """The couplings inside the largest modules that can be followed by themselves.

    What goes into such a module and comes out of it stays whole. That nothing else reads a module's weights
    is for the proof to show, which compares the whole model.

    Args:
        model: that torch.export rejects.
        inputs: an example of each.
        choices: what is left to the user.
        why: what torch.export said.
        deadline: by `time.monotonic`; modules that were not followed by then stay whole.

    Raises:
        ModelError: none of its modules can be followed either.
    """
    calls = _listen(model, inputs)
    names = {id(tensor): name for name, tensor in tensors_of(model).items()}
    items, shapes, layers = list[Coupling](), dict[str, tuple[int, ...]](), list[Layer]()
    doubts = dict[str, tuple[int, str]]()
    for prefix, part, grouped in _parts(model, calls, choices, deadline):
        own = {name: names[id(tensor)] for name, tensor in tensors_of(part, aliases=True).items()}
        for coupling in grouped.couplings:
            items.append(_placed(coupling, prefix, own))
            if coupling.name in grouped.doubts:
                doubts[items[-1].name] = grouped.doubts[coupling.name]
        shapes |= {own[name]: shape for name, shape in grouped.couplings.shapes.items()}
        layers += [
            replace(layer, name=f"{prefix}{layer.name}", parameter=own.get(layer.parameter or ""))
            for layer in grouped.couplings.layers
        ]
    if not any(item.reason is None for item in items):
        raise ModelError(f"{why}; none of its modules has channels that could go without the others")
    known = {layer.name for layer in layers}
    for name, module in model.named_modules():
        if isinstance(module, PRUNABLE) and name not in known:
            width = module.out_features if isinstance(module, nn.Linear) else module.out_channels
            layers.append(Layer(name, width, None, 0, 1))
    return Grouped(Couplings(tuple(items), shapes, tuple(layers), choices), doubts, partial=True)


def _parts(
    model: nn.Module, calls: Calls, choices: Choices, deadline: float
) -> list[tuple[str, nn.Module, Grouped]]:
    """The outermost modules that can be followed: their names with a dot, and what is in them."""
    found = []

    def descend(module: nn.Module, prefix: str) -> None:
        for name, child in module.named_children():
            if sum(isinstance(inner, PRUNABLE) for inner in child.modules()) < 2:
                continue
            arguments = calls.get(child, [])
            grouped = None
            if arguments and arguments[0] is not None:
                try:
                    with in_time(deadline, 0):
                        grouped = group(child, trace(child, arguments[0], choices))
                except ModelError:
                    grouped = None
            if grouped is not None:
                found.append((f"{prefix}{name}.", child, grouped))
            else:
                descend(child, f"{prefix}{name}.")

    descend(model, "")
    return found


@torch.no_grad()
def _listen(model: nn.Module, inputs: tuple[Tensor, ...]) -> Calls:
    """What every module is called with, None where that is not tensors only."""
    calls: Calls = {}
    twin = copy.deepcopy(model).eval()
    origin = dict(zip(twin.modules(), model.modules(), strict=True))

    def note(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        plain = not kwargs and all(isinstance(value, Tensor) for value in args)
        calls.setdefault(origin[module], []).append(args if plain else None)  # type: ignore[arg-type]

    for module in twin.modules():
        module.register_forward_pre_hook(note, with_kwargs=True)
    twin(*inputs)
    return calls


def _placed(coupling: Coupling, prefix: str, names: dict[str, str]) -> Coupling:
    members = tuple(replace(member, parameter=names[member.parameter]) for member in coupling.members)
    return replace(coupling, name=f"{prefix}{coupling.name}", members=members)
