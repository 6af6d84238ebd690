"""Whether the files of a saved model fit the model that they are read into."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from kezuri.core.errors import CorruptArtifact
from kezuri.model.program_file import ANSWER, INPUT
from kezuri.model.shrink import Structure
from kezuri.model.sites import tensors_of
from kezuri.model.structure_file import STRUCTURE, WEIGHTS, Document

MASK = "mask:"
LARGEST_DENSE = 1 << 32


def is_program(document: Document) -> bool:
    """Whether the model is exported anew when it is read: a rewritten one, or one with quantizers."""
    return document.program is not None or document.quantization is not None


def check_outline(outline: nn.Module, structure: Structure, document: Document, folder: Path) -> None:
    """Refuses what cannot be right before memory is taken for it."""
    dense = tensors_of(outline)
    size = sum(tensor.numel() for tensor in dense.values())
    if size > LARGEST_DENSE:
        raise CorruptArtifact(f"{folder / STRUCTURE} asks for a model of {size:,} values")
    for name, shape in document.shapes.items() if not is_program(document) else ():
        if name not in dense:
            raise CorruptArtifact(f"{folder / STRUCTURE} has {name!r}, which the model does not have")
        cut = list(dense[name].shape)
        for dim, positions in structure.kept.get(name, {}).items():
            if dim < len(cut):
                cut[dim] = len(positions)
        if cut != shape:
            raise CorruptArtifact(
                f"{folder / STRUCTURE}: {name} is {shape}, the cut model's {cut} was expected"
            )


def check_tensors(
    folder: Path, tensors: Mapping[str, Tensor], document: Document, weights: Mapping[str, Tensor]
) -> None:
    """Names, shapes and kinds of everything in the weights file."""
    wanted = {name: list(tensor.shape) for name, tensor in tensors.items()}
    for name in document.masks:
        if name not in wanted:
            raise CorruptArtifact(
                f"{folder / STRUCTURE} has a mask for {name!r}, which the model does not have"
            )
    wanted |= {MASK + name: wanted[name] for name in document.masks}
    beside = (INPUT, ANSWER) if is_program(document) else (INPUT,)
    found = {name: list(tensor.shape) for name, tensor in weights.items() if not name.startswith(beside)}
    differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if differing:
        name = differing[0]
        raise CorruptArtifact(
            f"{folder / WEIGHTS} does not fit the model: {name} is {found.get(name)} in the file and "
            f"{wanted.get(name)} in the model ({len(differing)} differ){versions(document)}"
        )
    wrong = [
        name for name in tensors if weights[name].is_floating_point() != tensors[name].is_floating_point()
    ]
    wrong += [MASK + name for name in document.masks if weights[MASK + name].dtype != torch.bool]
    if wrong:
        raise CorruptArtifact(
            f"{folder / WEIGHTS}: {wrong[0]} holds values of type {weights[wrong[0]].dtype}"
        )


def saved_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What the state dict holds, each tensor once."""
    names = model.state_dict().keys()
    return {name: tensor for name, tensor in tensors_of(model).items() if name in names}


def versions(document: Document) -> str:
    """What to add to a complaint if another version of torch wrote the files: it may export another graph."""
    here = str(torch.__version__)
    if document.torch in (None, here):
        return ""
    return f" (it was written with torch {document.torch}, this is {here})"
