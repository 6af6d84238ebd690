"""The search for residual blocks: modules that give back their input once their branches end in zeros."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kezuri.core.errors import ModelError
from kezuri.core.seeds import derive
from kezuri.model.modes import fused_attention_off
from kezuri.model.sites import PRUNABLE

TOLERANCE, NOISE = 1e-6, 0.1
CONTAINERS = (nn.Sequential.forward, nn.Module.forward)
"""What modules do that only hold others; such are chains of blocks, not blocks."""


@dataclass(frozen=True)
class Found:
    """A block: `ends` are the parameters and buffers to zero, `reason` why it must stay."""

    name: str
    reason: str | None
    ends: tuple[str, ...] = ()


@torch.no_grad()
def search(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Found]:
    """The outermost residual blocks, and what else could look like one, in execution order.

    Modules are tried on what reaches them from a random batch of the inputs' shapes.

    Args:
        model: in evaluation mode; hooks and weights are as before afterwards.
        inputs: a batch such as it takes.

    Raises:
        ModelError: the model does not accept the inputs.
    """
    searching = _Search(model, inputs)
    return sorted(searching.rows("", model), key=lambda one: searching.heard.order.get(one.name, 1 << 30))


@dataclass
class _Calls:
    """What a module was given, or why that does not make it a block."""

    inputs: list[Tensor] = field(default_factory=list)
    reason: str | None = None

    def begin(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [value for value in (*args, *kwargs.values()) if value is not None]
        if len(given) == len(args) == 1 and not kwargs and isinstance(given[0], Tensor):
            self.inputs.append(given[0].clone())
        else:
            self.reason = "takes more than one tensor"

    def end(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ARG002 (torch's signature)
        if self.reason is None:
            self.reason = _change(self.inputs[-1], output)
        if self.reason is not None:
            self.inputs.clear()


def _change(given: Tensor, output: Any) -> str | None:
    if not isinstance(output, Tensor):
        return "gives something else than one tensor"
    if output.shape != given.shape:
        before, after = ("x".join(map(str, tensor.shape[1:])) for tensor in (given, output))
        return f"changes the shape of its input, {before} to {after}"
    return None if output.dtype == given.dtype else "changes the type of its input"


class _Heard:
    """A random batch through a model, heard by hooks: what modules are given, and their order."""

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str]) -> None:
        self.calls = {name: _Calls() for name in names}
        self.order: dict[str, int] = {}
        with ExitStack() as stack:
            for name, module in model.named_modules():
                if calls := self.calls.get(name):
                    stack.callback(module.register_forward_pre_hook(calls.begin, with_kwargs=True).remove)
                    stack.callback(module.register_forward_hook(calls.end).remove)
                stack.callback(module.register_forward_hook(self._ended(name)).remove)
            _run(model, _random_like(inputs))

    def _ended(self, name: str) -> Callable[..., None]:
        def note(*_: object) -> None:
            self.order.setdefault(name, len(self.order))

        return note


def _run(model: nn.Module, batch: Sequence[Tensor]) -> None:
    try:
        with fused_attention_off():
            model(*batch)
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in batch)
        lines = str(error).splitlines() or [""]
        raise ModelError(
            f"the model does not accept an input of shape {shapes}: {type(error).__name__}: {lines[0]}"
        ) from error


def _random_like(inputs: tuple[Tensor, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(derive(0, "blocks"))
    return [
        torch.randn(tensor.shape, generator=generator).to(tensor.device, tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for tensor in inputs
    ]


class _Search:
    """Candidates from the inside out: a module around candidates is one itself if it is no chain of them."""

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.model = model
        modules = {name: module for name, module in model.named_modules() if name and _holds_layers(module)}
        self.heard = _Heard(model, inputs, list(modules))
        self.reasons: dict[str, str] = {}
        self.found: dict[str, Found] = {}
        for name, module in reversed(modules.items()):  # children come before their parents
            inner = [other for other in self.found if other.startswith(f"{name}.")]
            reason, ends = self._judged(name, module, inner)
            if reason is not None:
                self.reasons[name] = reason
            elif ends:
                self.found = {n: one for n, one in self.found.items() if n not in inner}
                self.found[name] = Found(name, None, ends)

    def rows(self, name: str, module: nn.Module) -> Iterator[Found]:
        """Candidates, and modules with layers that neither are nor hold any."""
        if name in self.found:
            yield self.found[name]
        elif name in self.reasons and not any(other.startswith(f"{name}.") for other in self.found):
            yield Found(name, self.reasons[name])
        else:
            for key, child in module.named_children():
                yield from self.rows(f"{name}.{key}" if name else key, child)

    def _judged(self, name: str, module: nn.Module, inner: list[str]) -> tuple[str | None, tuple[str, ...]]:
        """Why it must stay, or the ends of its branches; neither for a chain of blocks."""
        calls = self.heard.calls[name]
        if calls.reason is not None:
            return calls.reason, ()
        if not any(bool(given.any()) for given in calls.inputs):
            return "nothing but zeros reaches it" if calls.inputs else "the example does not reach it", ()
        if other := _sharing(self.model, module):
            return f"shares weights with {other}", ()
        parts = self._parts(name, module)
        with _perturbed(module):
            if inner and self._passes(module, calls, [end for one in inner for end in self.found[one].ends]):
                return None, ()
            if not self._passes(module, calls, [tensor for part in parts for tensor in part]):
                return self._fault(module, calls, parts), ()
            return None, self._ends(module, calls, parts)

    def _parts(self, name: str, module: nn.Module) -> list[list[str]]:
        """Parameters and buffers, module by module in the order that these are done."""
        held: dict[str, list[str]] = {}
        own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        for key, tensor in own.items():
            owner, _, leaf = f"{name}.{key}".rpartition(".")
            if tensor.is_floating_point() and leaf != "running_var":
                held.setdefault(owner, []).append(f"{name}.{key}")
        return [held[owner] for owner in sorted(held, key=lambda owner: self.heard.order.get(owner, 1 << 30))]

    def _ends(self, module: nn.Module, calls: _Calls, parts: list[list[str]]) -> tuple[str, ...]:
        """The shortest run of last parts that makes it give back its input, less what is not needed of it."""
        flat = [tensor for part in parts for tensor in part]
        first = next(
            at
            for at in reversed(range(len(parts)))
            if at == 0 or self._passes(module, calls, [tensor for part in parts[at:] for tensor in part])
        )
        needed = parts[first:]
        for part in parts[first:]:
            rest = [other for other in needed if other is not part]
            if self._passes(module, calls, [tensor for other in rest for tensor in other]):
                needed = rest
        chosen = {tensor for part in needed for tensor in part}
        return tuple(tensor for tensor in flat if tensor in chosen)

    def _passes(self, module: nn.Module, calls: _Calls, silent: Iterable[str]) -> bool:
        with self._silent(silent):
            return all(_same(module(given.clone()), given) for given in calls.inputs)

    def _fault(self, module: nn.Module, calls: _Calls, parts: list[list[str]]) -> str:
        with self._silent(tensor for part in parts for tensor in part):
            outputs = [module(given.clone()) for given in calls.inputs]
        if all(torch.equal(output, output[:1].expand_as(output)) for output in outputs):
            return "does not add its input, or scales the sum"
        return "changes its input even where its branches are zero"

    @contextmanager
    def _silent(self, names: Iterable[str]) -> Iterator[None]:
        tensors = [_tensor(self.model, name) for name in names]
        before = [tensor.clone() for tensor in tensors]
        for tensor in tensors:
            tensor.zero_()
        try:
            with fused_attention_off():
                yield
        finally:
            for tensor, values in zip(tensors, before, strict=True):
                tensor.copy_(values)


@contextmanager
def _perturbed(module: nn.Module) -> Iterator[None]:
    """Adds noise to the weights, as a branch that ends in small weights or zeros by chance says nothing."""
    generator = torch.Generator().manual_seed(derive(0, "noise"))
    before = [(parameter, parameter.clone()) for parameter in module.parameters()]
    for parameter, _ in before:
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.device, parameter.dtype)
        parameter.add_(noise, alpha=NOISE)
    try:
        yield
    finally:
        for parameter, values in before:
            parameter.copy_(values)


def _holds_layers(module: nn.Module) -> bool:
    """Whether it computes something with layers of its own that may be pruned."""
    inside = list(module.modules())[1:]
    return type(module).forward not in CONTAINERS and any(isinstance(one, PRUNABLE) for one in inside)


def _same(output: Any, given: Tensor) -> bool:
    if not isinstance(output, Tensor) or output.shape != given.shape:
        return False
    return float((output - given).abs().max()) <= TOLERANCE * float(given.abs().max())


def _tensor(model: nn.Module, name: str) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    tensor = module._parameters.get(leaf)
    found = module._buffers.get(leaf) if tensor is None else tensor
    assert found is not None
    return found


def _sharing(model: nn.Module, block: nn.Module) -> str | None:
    """A module outside of the block that holds one of its tensors or modules."""
    inside = set(block.modules())
    tensors = {id(tensor) for tensor in (*block.parameters(), *block.buffers())}
    outside = dict[nn.Module, str]()
    waiting = [("", model)]
    while waiting:
        name, module = waiting.pop()
        if module is block or module in outside:
            continue
        outside[module] = name
        waiting += [(f"{name}.{key}" if name else key, child) for key, child in module.named_children()]
    for module, name in outside.items():
        own = (*module._parameters.values(), *module._buffers.values())
        if module in inside or any(id(tensor) in tensors for tensor in own if tensor is not None):
            return name or "the model"
    return None
