"""An optimizer's state as tensors and plain data, by the names of the parameters, and back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kezuri.core.errors import CorruptArtifact, UsageError
from kezuri.model.structure_file import Optimizer


@dataclass(frozen=True, eq=False)
class SavedOptimizer:
    """The state of an optimizer that was saved with its model.

    Attributes:
        use: the optimizer's class, such as `Adam`.
        groups: of each group of parameters their names and its options.
        state: by parameter name, what the optimizer keeps of it.
    """

    use: str
    groups: tuple[tuple[tuple[str, ...], Mapping[str, Any]], ...]
    state: Mapping[str, Mapping[str, Any]]

    def load_(self, optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
        """Sets an optimizer of the model's parameters to what was saved: its state and its options.

        Raises:
            UsageError: it is of another class, or groups the parameters otherwise.
        """
        if type(optimizer).__name__ != self.use:
            raise UsageError(f"the state of {self.use} was saved, it does not fit {type(optimizer).__name__}")
        names = parameter_names(model)
        groups, state, count = [], {}, 0
        mine = [[names.get(id(p), "") for p in group["params"]] for group in optimizer.param_groups]
        if [set(group) for group in mine] != [set(group) for group, _ in self.groups]:
            raise UsageError(
                f"the saved {self.use} had {_sizes([list(group) for group, _ in self.groups])}, this one has "
                f"{_sizes(mine)}, or others in them: build it from the model that was read, as it was built"
            )
        for own, group, (_, options) in zip(optimizer.param_groups, mine, self.groups, strict=True):
            entry = {key: _alike(own.get(key), value) for key, value in options.items()}
            groups.append({**entry, "params": list(range(count, count + len(group)))})
            if "param_names" in own:
                groups[-1]["param_names"] = own["param_names"]
            for at, name in enumerate(group, start=count):
                if name in self.state:
                    state[at] = dict(self.state[name])
            count += len(group)
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def parameter_names(model: nn.Module) -> dict[int, str]:
    """The first name of each parameter, by its identity."""
    return {id(parameter): name for name, parameter in model.named_parameters()}


def packed(optimizer: torch.optim.Optimizer, model: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An optimizer's state as plain data and tensors: `<key>:<parameter>`, `<option>:group <number>`.

    Raises:
        UsageError: it trains what is not the model's, or keeps more than numbers and tensors of parameters.
    """
    names = parameter_names(model)
    tensors: dict[str, Tensor] = {}
    groups, numbers = [], dict[str, dict[str, Any]]()
    for number, group in enumerate(optimizer.param_groups):
        if any(id(parameter) not in names for parameter in group["params"]):
            raise UsageError("the optimizer trains parameters that are not the model's: save it without")
        options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        for key, value in list(options.items()):
            if isinstance(value, Tensor):
                tensors[f"{key}:group {number}"] = options.pop(key)
        groups.append({"params": [names[id(p)] for p in group["params"]], "options": options})
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                name = names[id(parameter)]
                if isinstance(value, Tensor):
                    tensors[f"{key}:{name}"] = value
                elif isinstance(value, int | float | bool | None):
                    numbers.setdefault(name, {})[key] = value
                else:
                    raise UsageError(
                        f"{type(optimizer).__name__} keeps a {type(value).__name__} ({key}) of a parameter; "
                        "only numbers and tensors can be saved: save the model without the optimizer"
                    )
    return {"use": type(optimizer).__name__, "groups": groups, "numbers": numbers}, tensors


def unpacked(document: Optimizer, tensors: Mapping[str, Tensor], model: nn.Module) -> SavedOptimizer:
    """The inverse of `packed`.

    Raises:
        CorruptArtifact: what is named is not the model's, or a tensor does not fit its parameter.
    """
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    groups = [(tuple(group.params), dict(group.options)) for group in document.groups]
    numbered = {f"group {number}": options for number, (_, options) in enumerate(groups)}
    state: dict[str, dict[str, Any]] = {name: dict(kept) for name, kept in document.numbers.items()}
    for label, tensor in tensors.items():
        key, _, name = label.partition(":")
        if name in shapes:
            _check_shape(label, tensor.shape, shapes[name])
            state.setdefault(name, {})[key] = tensor
        elif name in numbered and tensor.numel() == 1:
            numbered[name][key] = tensor
        else:
            raise CorruptArtifact(f"the optimizer's state has {label!r}, which does not fit the model")
    named = [name for params, _ in groups for name in params]
    if unknown := sorted((set(named) | set(state)) - set(shapes)):
        raise CorruptArtifact(f"the optimizer trains {unknown[0]!r}, which the model does not have")
    if len(named) > len(set(named)):
        raise CorruptArtifact("the optimizer has a parameter in two groups")
    return SavedOptimizer(document.use, tuple(groups), state)


def _check_shape(label: str, found: torch.Size, parameter: torch.Size) -> None:
    """A state tensor is a number, of the parameter's shape, or of that with ones in it."""
    alike = len(found) == len(parameter) and all(
        size in (1, whole) for size, whole in zip(found, parameter, strict=True)
    )
    if found.numel() != 1 and not alike:
        raise CorruptArtifact(
            f"the optimizer's {label!r} is {list(found)}, its parameter in the model {list(parameter)}"
        )


def _alike(own: Any, value: Any) -> Any:
    """JSON knows no tuples."""
    return tuple(value) if isinstance(own, tuple) and isinstance(value, list) else value


def _sizes(groups: list[list[str]]) -> str:
    return f"groups of {', '.join(str(len(group)) for group in groups)} parameters"
