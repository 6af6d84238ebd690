"""Cutting: layers get smaller and modules go, in the user's own model; the optimizer's state follows."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from kezuri.core.errors import ShapeError, UsageError
from kezuri.model.families import Coupling, Couplings
from kezuri.model.sites import tensors_of
from kezuri.model.structure import Structure as Structure

FOLLOWED = (
    nn.Linear,
    _ConvNd,
    _NormBase,
    nn.PReLU,
    nn.Embedding,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.RNNBase,
)
"""Modules whose own size attributes follow a cut."""


def structure_of(couplings: Couplings, kept: Mapping[str, Tensor]) -> Structure:
    """The structure that removes the units that `kept` marks False.

    Args:
        couplings: of the model to cut.
        kept: by coupling name, (width,) bool, True = kept; couplings not named stay whole.

    Raises:
        UsageError: a coupling is unknown or blocked, a mask has the wrong shape or keeps nothing.
    """
    gone: dict[str, dict[int, list[Tensor]]] = {}
    for coupling, removed in _removals(couplings, kept):
        for member in coupling.members:
            positions = torch.from_numpy(member.positions)[removed].flatten()
            gone.setdefault(member.parameter, {}).setdefault(member.dim, []).append(positions)
    return Structure(
        {
            name: {dim: _rest(couplings.shapes[name][dim], parts) for dim, parts in sorted(dims.items())}
            for name, dims in gone.items()
        }
    )


@torch.no_grad()
def mask_channels_(
    model: nn.Module, couplings: Couplings, kept: Mapping[str, Tensor], *, buffers: bool = True
) -> None:
    """Zeroes everything that belongs to the units that `kept` marks False, so that nothing reads them.

    The masked model computes what the cut one will. Running variances are left: a channel of zeros has none.

    Args:
        model: changed in place.
        couplings: of this model.
        kept: by coupling name, (width,) bool, True = kept; couplings not named stay whole.
        buffers: whether buffers are zeroed too; a model may divide by one.

    Raises:
        UsageError: as `structure_of`.
    """
    tensors = tensors_of(model)
    left = {name for name, _ in model.named_buffers() if not buffers or name.endswith("running_var")}
    for coupling, removed in _removals(couplings, kept):
        for member in coupling.members:
            if member.parameter in left:
                continue
            tensor = tensors[member.parameter]
            positions = torch.from_numpy(member.positions)[removed].flatten()
            tensor.index_fill_(member.dim, positions.to(tensor.device), 0)


@torch.no_grad()
def shrink_(model: nn.Module, structure: Structure, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Cuts a model in place: parameters, buffers, module sizes, whole modules and the optimizer's state.

    Parameters stay the same objects, so an optimizer goes on with them; their gradients are dropped. It
    forgets those of modules that are dropped.

    Raises:
        ShapeError: the structure does not fit the model; nothing was changed.
    """
    check_fits(model, structure)
    tensors = tensors_of(model)
    done: dict[object, Tensor] = {}
    for name, dims in structure.kept.items():
        tensor = tensors[name]
        old = tensor.shape
        key = (tensor.data_ptr() or id(tensor), old, tensor.stride(), tuple(dims.items()))
        if key not in done:
            done[key] = selected(tensor, dims)
        put_(tensor, done[key])
        if optimizer is not None and isinstance(tensor, nn.Parameter):
            _follow_optimizer(optimizer.state.get(tensor, {}), dims, old)
    changed = {id(tensors[name]) for name in structure.kept}
    for module in model.modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if any(id(tensor) in changed for tensor in own):
            _follow_module(module)
    _drop_(model, structure.dropped, optimizer)


def _removals(couplings: Couplings, kept: Mapping[str, Tensor]) -> list[tuple[Coupling, Tensor]]:
    removals = []
    for name, mask in kept.items():
        coupling = couplings.named(name)
        if mask.dtype != torch.bool or tuple(mask.shape) != (coupling.width,):
            got = f"{mask.dtype} of shape {tuple(mask.shape)}"
            raise UsageError(f"kept[{name!r}] must be a bool tensor of shape ({coupling.width},), got {got}")
        removed = ~mask.cpu()
        if not removed.any():
            continue
        if coupling.reason is not None:
            raise UsageError(f"the channels of {name!r} cannot be removed: {coupling.reason}")
        if removed.all():
            raise UsageError(
                f"kept[{name!r}] keeps none of its {coupling.width} channels; at least 1 must stay"
            )
        removals.append((coupling, removed))
    return removals


def _rest(size: int, gone: list[Tensor]) -> tuple[int, ...]:
    left = np.ones(size, dtype=bool)
    left[torch.cat(gone).numpy()] = False
    return tuple(np.flatnonzero(left).tolist())


def check_fits(model: nn.Module, structure: Structure) -> None:
    """Refuses a structure of another model.

    Raises:
        ShapeError: it cuts or drops what the model does not have, or keeps positions it does not have.
    """
    modules, tensors = dict(model.named_modules(remove_duplicate=False)), tensors_of(model)
    for name in structure.dropped:
        if name not in modules:
            raise ShapeError(f"the structure drops {name!r}, which the model does not have")
    for name, dims in structure.kept.items():
        if name not in tensors:
            raise ShapeError(f"the structure cuts {name!r}, which the model does not have")
        shape = tuple(tensors[name].shape)
        for dim, positions in dims.items():
            if dim >= len(shape) or not positions or positions[-1] >= shape[dim]:
                most = max(positions, default=None)
                raise ShapeError(
                    f"the structure keeps position {most} along dimension {dim} of {name} {shape}"
                )


def selected(tensor: Tensor, dims: Mapping[int, tuple[int, ...]]) -> Tensor:
    """What is left of a tensor, detached."""
    for dim, positions in dims.items():
        tensor = tensor.index_select(dim, torch.tensor(positions, device=tensor.device))
    return tensor.detach()


def put_(tensor: Tensor, content: Tensor) -> None:
    """Gives a tensor that may be a parameter content of another shape; its gradient is dropped."""
    tensor.grad = None
    # a loss of before the cut may still hold the tensor's gradient node, which checks for the old shape;
    # a change of type makes torch forget that node, a change of shape does not
    if tensor.requires_grad:
        other = torch.float32 if content.dtype == torch.float64 else torch.float64
        tensor.data = torch.empty(0, dtype=other, device=content.device)
    tensor.data = content


def _follow_optimizer(state: dict[str, Any], dims: Mapping[int, tuple[int, ...]], old: torch.Size) -> None:
    for key, value in state.items():
        if isinstance(value, Tensor) and len(value.shape) == len(old):
            # Adafactor keeps sums over a dimension, of length 1 there
            long = {dim: positions for dim, positions in dims.items() if value.shape[dim] == old[dim] > 1}
            state[key] = selected(value, long)


def _drop_(model: nn.Module, names: Collection[str], optimizer: torch.optim.Optimizer | None) -> None:
    before = list(model.parameters())
    for name in names:
        gone = model.get_submodule(name)
        for owner in list(model.modules()):
            for key, module in list(owner._modules.items()):
                if module is gone:
                    setattr(owner, key, nn.Identity().train(gone.training))
    if optimizer is not None and names:
        left = {id(parameter) for parameter in model.parameters()}
        _forget(optimizer, {id(parameter) for parameter in before} - left)


def _forget(optimizer: torch.optim.Optimizer, gone: set[int]) -> None:
    for group in optimizer.param_groups:
        stays = [id(parameter) not in gone for parameter in group["params"]]
        for parameter in group["params"]:
            if id(parameter) in gone:
                optimizer.state.pop(parameter, None)
        for key in {"params", "param_names"} & set(group):
            group[key] = [entry for entry, stay in zip(group[key], stays, strict=True) if stay]


def _follow_module(module: nn.Module) -> None:
    if isinstance(module, _ConvNd):
        _follow_convolution(module)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _NormBase):
        sized = module.weight if module.weight is not None else module.running_mean
        module.num_features = len(sized)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.GroupNorm):
        each = module.num_groups == module.num_channels > 1
        module.num_channels = len(module.weight)
        module.num_groups = module.num_channels if each else module.num_groups
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    elif isinstance(module, nn.RNNBase):
        module.hidden_size = module.get_parameter("weight_hh_l0").shape[1]
        module.input_size = module.get_parameter("weight_ih_l0").shape[1]
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape


def _follow_convolution(module: _ConvNd) -> None:
    first, second = module.weight.shape[:2]
    depthwise = module.groups == module.in_channels > 1
    if isinstance(module, _ConvTransposeNd):
        module.groups = first if depthwise else module.groups
        module.in_channels, module.out_channels = first, second * module.groups
        return
    if depthwise:
        module.groups = first // (module.out_channels // module.in_channels)
    module.in_channels, module.out_channels = second * module.groups, first
