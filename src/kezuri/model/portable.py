"""Models on disk: safetensors and a structure in JSON. Reading executes nothing from the files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from kezuri.artifact.atomic import write_bytes
from kezuri.core.errors import CorruptArtifact, KezuriError, ShapeError, UsageError
from kezuri.model.load import ModelSpec, load_model
from kezuri.model.shrink import Structure, shrink_
from kezuri.model.sites import tensors_of
from kezuri.model.structure_file import STRUCTURE, WEIGHTS, Document, read_document, sealed, sha256_of
from kezuri.model.zoo import zoo

MASK = "mask:"
LARGEST_DENSE = 1 << 32


@dataclass(frozen=True)
class SavedModel:
    """A model read from disk, in eval mode on the CPU.

    Attributes:
        structure: what was cut, counted in the dense model.
        masks: by weight name, bool in the weight's shape, True = kept; empty if none were saved.
        about: what the writer added.
        spec: how the dense model is built; None for a model of the user's own.
    """

    model: nn.Module
    structure: Structure
    masks: Mapping[str, Tensor]
    about: dict[str, Any]
    spec: ModelSpec | None
    classes: int
    image_shape: tuple[int, int, int]


def save_model(
    folder: Path,
    model: nn.Module,
    *,
    spec: ModelSpec | None,
    classes: int,
    image_shape: tuple[int, int, int],
    structure: Structure,
    masks: Mapping[str, Tensor] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes `model.safetensors` and `structure.json` into `folder`, each whole or not at all.

    Args:
        spec: how the dense model is built; None if only the user's own code can.
        structure: the cuts that lead from the dense model to this one.
        masks: by weight name, bool in the weight's shape, True = kept.
        extra: plain data to keep with the model; comes back as `about`.

    Raises:
        ResourceError: no room, or the folder cannot be written.
        UsageError: `extra` or the model's options are not plain data.
    """
    masks = masks or {}
    tensors = _saved_tensors(model)
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    stored |= {MASK + name: mask.cpu().to(torch.bool).contiguous().clone() for name, mask in masks.items()}
    weights = save(stored)
    content = {
        "format": 2,
        "model": None if spec is None else {"use": spec.ref, "options": dict(spec.options)},
        "classes": classes,
        "image_shape": list(image_shape),
        **structure.to_json(),
        "masks": sorted(masks),
        "weights": {"file": WEIGHTS, "sha256": sha256_of(weights), "bytes": len(weights)},
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
        "about": dict(extra or {}),
    }
    try:
        document = sealed(content)
    except (TypeError, ValueError) as error:
        raise UsageError(f"options and extra must be plain data that JSON can hold: {error}") from error
    write_bytes(folder / WEIGHTS, weights)
    write_bytes(folder / STRUCTURE, document)


def read_model(folder: Path, *, build: Callable[[], nn.Module] | None = None) -> SavedModel:
    """The model that `save_model` wrote; its outputs are bit-identical.

    The dense model is built, cut as the structure says, and given the saved weights. Models of the zoo are
    built by name. Nothing in the files is executed, and a file that changed in any byte is refused.

    Args:
        build: gives the dense model, for models that are not in the zoo.

    Raises:
        DataError: the folder holds no model.
        CorruptArtifact: a file is damaged, was tampered with, or does not fit the model.
        UsageError: the model is not in the zoo and `build` is missing.
    """
    document = read_document(folder / STRUCTURE)
    weights = _read_weights(folder / WEIGHTS, document)
    structure = _structure(document, folder)
    use = document.model
    spec = None if use is None else ModelSpec(use.use, use.options)
    model = build() if build is not None else _built(document, spec, structure, folder)
    try:
        shrink_(model, structure)
    except ShapeError as error:
        raise CorruptArtifact(f"{folder / STRUCTURE} does not fit the model: {error}") from error
    tensors = _saved_tensors(model)
    _check_shapes(folder, tensors, document, weights)
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.data = weights[name]
    masks = {name: weights[MASK + name] for name in document.masks}
    return SavedModel(
        model.eval(), structure, masks, document.about, spec, document.classes, document.image_shape
    )


def _read_weights(path: Path, document: Document) -> dict[str, Tensor]:
    """All tensors, after size and hash were found right."""
    try:
        size = path.stat().st_size
        if size != document.weights.bytes:
            raise CorruptArtifact(f"{path} has {size:,} bytes; {document.weights.bytes:,} were written")
        raw = path.read_bytes()
    except OSError as error:
        raise CorruptArtifact(f"{path} cannot be read: {error.strerror or error}") from error
    if sha256_of(raw) != document.weights.sha256:
        raise CorruptArtifact(f"{path} is damaged: its SHA-256 is not the one it was written with")
    try:
        return load(raw)
    except SafetensorError as error:
        raise CorruptArtifact(f"{path} does not hold tensors: {error}") from error


def _structure(document: Document, folder: Path) -> Structure:
    try:
        return Structure.from_json({"kept": document.kept, "dropped": document.dropped})
    except ValueError as error:
        raise CorruptArtifact(f"{folder / STRUCTURE}: {error}") from error


def _built(document: Document, spec: ModelSpec | None, structure: Structure, folder: Path) -> nn.Module:
    if spec is None or spec.ref not in list(zoo):
        name = "the model" if spec is None else repr(spec.ref)
        raise UsageError(
            f"{name} in {folder} is not in the zoo: pass build=, a function that gives the dense model"
        )
    shape = document.image_shape
    try:
        with torch.device("meta"):
            outline = load_model(spec, classes=document.classes, image_shape=shape)
        _check_outline(tensors_of(outline), structure, document, folder)
        return load_model(spec, classes=document.classes, image_shape=shape)
    except CorruptArtifact:
        raise
    except KezuriError as error:
        raise CorruptArtifact(f"{folder / STRUCTURE} describes no model of the zoo: {error}") from error


def _check_outline(
    dense: Mapping[str, Tensor], structure: Structure, document: Document, folder: Path
) -> None:
    """Refuses what cannot be right before memory is taken for it."""
    size = sum(tensor.numel() for tensor in dense.values())
    if size > LARGEST_DENSE:
        raise CorruptArtifact(f"{folder / STRUCTURE} asks for a model of {size:,} values")
    for name, shape in document.shapes.items():
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


def _check_shapes(
    folder: Path, tensors: Mapping[str, Tensor], document: Document, weights: Mapping[str, Tensor]
) -> None:
    wanted = {name: list(tensor.shape) for name, tensor in tensors.items()}
    for name in document.masks:
        if name not in wanted:
            raise CorruptArtifact(
                f"{folder / STRUCTURE} has a mask for {name!r}, which the model does not have"
            )
    wanted |= {MASK + name: wanted[name] for name in document.masks}
    found = {name: list(tensor.shape) for name, tensor in weights.items()}
    differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if differing:
        name = differing[0]
        raise CorruptArtifact(
            f"{folder / WEIGHTS} does not fit the model: {name} is {found.get(name)} in the file and "
            f"{wanted.get(name)} in the model ({len(differing)} differ)"
        )
    wrong = [
        name for name in tensors if weights[name].is_floating_point() != tensors[name].is_floating_point()
    ]
    wrong += [MASK + name for name in document.masks if weights[MASK + name].dtype != torch.bool]
    if wrong:
        raise CorruptArtifact(
            f"{folder / WEIGHTS}: {wrong[0]} holds values of type {weights[wrong[0]].dtype}"
        )


def _saved_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What the state dict holds, each tensor once."""
    names = model.state_dict().keys()
    return {name: tensor for name, tensor in tensors_of(model).items() if name in names}
