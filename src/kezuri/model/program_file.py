"""A rewritten program on disk: what it is exported with, and answers that tell whether it is the same."""

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from kezuri.core.errors import CorruptArtifact, KezuriError, ShapeError, UsageError
from kezuri.model.channels import Choices
from kezuri.model.modes import device_of, evaluating
from kezuri.model.program import Blueprint, Program
from kezuri.model.shrink import Structure, check_fits, shrink_
from kezuri.model.structure_file import Input

INPUT, ANSWER = "input:", "answer:"
LARGEST_INPUT = 1 << 30
SHOWN = 4096
"""How many numbers of an answer are kept."""
TOLERANCE = 1e-2
"""Relative; another machine rounds otherwise, another graph answers otherwise altogether."""

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}


def described(inputs: tuple[Tensor, ...]) -> list[dict[str, object]]:
    """The shapes and types of inputs as plain data.

    Raises:
        UsageError: a type is none that models are given.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    for tensor in inputs:
        if tensor.dtype not in names:
            raise UsageError(f"inputs are of the types {', '.join(DTYPES)}, got {tensor.dtype}")
    return [{"shape": list(tensor.shape), "dtype": names[tensor.dtype]} for tensor in inputs]


def tokens_of(inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The inputs whose values matter, as not every whole number is a token or an index."""
    return {
        f"{INPUT}{number}": tensor for number, tensor in enumerate(inputs) if not tensor.is_floating_point()
    }


def inputs_from(entries: list[Input], tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Examples of the inputs; fractions are zeros.

    Raises:
        CorruptArtifact: a type is unknown, an input is too large, or a stored one is not as described.
    """
    inputs = []
    for number, entry in enumerate(entries):
        if entry.dtype not in DTYPES or prod(entry.shape) > LARGEST_INPUT:
            raise CorruptArtifact(f"input {number} cannot be of type {entry.dtype} and shape {entry.shape}")
        dtype = DTYPES[entry.dtype]
        given = torch.zeros(entry.shape, dtype=dtype) if dtype.is_floating_point else None
        tensor = tensors.get(f"{INPUT}{number}", given)
        if tensor is None or list(tensor.shape) != entry.shape or tensor.dtype != dtype:
            raise CorruptArtifact(f"input {number} is not stored as it is described")
        inputs.append(tensor)
    return tuple(inputs)


def answers_of(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """What the model answers to waves in place of fractions, in evaluation mode; some 4,096 numbers each."""
    device = device_of(model)
    batch = [_wave(tensor).to(device) for tensor in inputs]
    with evaluating(model), torch.no_grad():
        leaves = pytree.tree_leaves(model(*batch))
    found = [leaf.detach().float().cpu().flatten() for leaf in leaves if isinstance(leaf, Tensor)]
    return {
        f"{ANSWER}{number}": answer[:: -(-len(answer) // SHOWN) or 1].clone()
        for number, answer in enumerate(found)
    }


def rebuilt(dense: nn.Module, structure: Structure, inputs: tuple[Tensor, ...], choices: Choices) -> Program:
    """The program of a model that is cut as `structure` says.

    Raises:
        KezuriError: the structure does not fit the model, or torch.export cannot follow it.
    """
    check_fits(dense, structure)
    shrink_(dense, Structure(dropped=structure.dropped))
    blueprint = Blueprint.of(dense, inputs, choices)
    if strange := sorted(set(structure.kept) - set(blueprint.channels.tensors)):
        raise ShapeError(f"the structure cuts {strange[0]!r}, which the exported model does not use")
    return blueprint.build(Structure(structure.kept))


def check_answers(model: nn.Module, inputs: tuple[Tensor, ...], expected: Mapping[str, Tensor]) -> None:
    """Refuses a model that does not answer as it did when it was saved.

    Raises:
        CorruptArtifact: it does not run, or its answers differ by more than rounding does.
    """
    try:
        found = answers_of(model, inputs)
    except KezuriError:
        raise
    except Exception as error:
        lines = str(error).splitlines() or [""]
        raise CorruptArtifact(f"the program does not run: {type(error).__name__}: {lines[0]}") from error
    wanted = {name: answer for name, answer in expected.items() if name.startswith(ANSWER)}
    if {n: a.shape for n, a in found.items()} != {n: a.shape for n, a in wanted.items()}:
        raise CorruptArtifact("the program gives other outputs than it did when it was saved")
    apart = max((_apart(wanted[name], answer) for name, answer in found.items()), default=0.0)
    if not apart <= TOLERANCE:
        raise CorruptArtifact(
            f"the program's answers differ by {apart:.1e} (relative) from those when it was saved"
        )


def _wave(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    return torch.arange(tensor.numel(), dtype=torch.float64).sin().view(tensor.shape).to(tensor.dtype)


def _apart(expected: Tensor, found: Tensor) -> float:
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    same = torch.isclose(found, expected, rtol=0.0, atol=TOLERANCE * largest, equal_nan=True)
    return 0.0 if bool(same.all()) else float((expected - found).abs().max() / max(largest, 1e-30))
