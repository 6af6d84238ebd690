"""What training changes about a model and the process only for its own time."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import Parameter

from kezuri.core.errors import UsageError


@contextmanager
def lent(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Has a model on a device, in channels-last layout, for a while.

    Afterwards it is back where it was, with contiguous weights, and each of its modules is in the mode
    (training or evaluation) it was in.
    """
    home = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), device)
    modes = [(module, module.training) for module in model.modules()]
    model.to(device)
    _lay_out(model, torch.channels_last)
    try:
        yield
    finally:
        model.to(home)
        _lay_out(model, torch.contiguous_format)
        for module, training in modes:
            module.training = training


def _lay_out(model: nn.Module, layout: torch.memory_format) -> None:
    for parameter in model.parameters():
        if parameter.dim() == 4:
            # not `contiguous`: with one channel it keeps strides that make the backward pass pick a slow path
            parameter.data = parameter.data.to(memory_format=layout)


def to_train(model: nn.Module, parameters: Iterable[Parameter] | None = None) -> list[Parameter]:
    """The parameters to train, in the model's order: those given, or all that require a gradient.

    Raises:
        UsageError: there are none, or one is not the model's.
    """
    if parameters is None:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    else:
        wanted = {id(parameter) for parameter in parameters}
        trained = [parameter for parameter in model.parameters() if id(parameter) in wanted]
        if len(trained) < len(wanted):
            raise UsageError(f"{len(wanted) - len(trained)} of the parameters to train are not the model's")
    if not trained:
        raise UsageError("there is nothing to train: no parameter requires a gradient")
    return trained


@contextmanager
def only_trained(model: nn.Module, trained: Sequence[Parameter]) -> Iterator[None]:
    """Freezes all other parameters for a while, and leaves no gradients."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    wanted = {id(parameter) for parameter in trained}
    for parameter, _ in before:
        parameter.requires_grad_(id(parameter) in wanted)
    try:
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)
            parameter.grad = None


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Leaves the global random state as it was; on a GPU, also asks for repeatable convolutions."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        if not on_gpu:
            yield
            return
        with torch.backends.cudnn.flags(deterministic=True, benchmark=False):
            yield
