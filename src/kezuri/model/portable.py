"""Models on disk: safetensors and a structure in JSON. Reading executes nothing from the files."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from kezuri.artifact.atomic import write_bytes
from kezuri.core.errors import CorruptArtifact, KezuriError, UsageError
from kezuri.model.channels import DEFAULT, Choices
from kezuri.model.exporting import example_batch
from kezuri.model.file_checks import (
    MASK,
    check_outline,
    check_tensors,
    is_program,
    saved_tensors,
    versions,
)
from kezuri.model.load import ModelSpec, load_model
from kezuri.model.optimizer_file import SavedOptimizer, packed, unpacked
from kezuri.model.program import Program
from kezuri.model.program_file import (
    answers_of,
    check_answers,
    described,
    inputs_from,
    rebuilt,
    tokens_of,
)
from kezuri.model.shrink import Structure, shrink_
from kezuri.model.structure_file import (
    FORMAT,
    OPTIMIZER,
    STRUCTURE,
    WEIGHTS,
    Document,
    file_entry,
    read_document,
    read_tensors,
    sealed,
)
from kezuri.model.zoo import zoo

ImageShape = tuple[int, int, int]
Quantize = Callable[[nn.Module, tuple[Tensor, ...], Mapping[str, Any]], nn.Module]
"""Puts quantizers into a cut model: model, an example of each input, settings."""

quantizations: dict[str, Quantize] = {}
"""What knows how to, by the name that files have; those who quantize add themselves."""


@dataclass(frozen=True)
class SavedModel:
    """A model read from disk, in eval mode on the CPU.

    Attributes:
        structure: what was cut, counted in the dense model.
        masks: by weight name, bool in the weight's shape, True = kept; empty if none were saved.
        about: what the writer added.
        spec: how the dense model is built; None for a model of the user's own.
        classes, image_shape: of a model of images; None if they were not said.
        inputs: an example of each input, zeros where they are fractions; None if not even images are known.
        optimizer: the state of the optimizer, if it was saved; see `load_optimizer_`.
        quantization: the settings of the quantizers it has; None if it has none.
    """

    model: nn.Module
    structure: Structure
    masks: Mapping[str, Tensor]
    about: dict[str, Any]
    spec: ModelSpec | None
    classes: int | None
    image_shape: ImageShape | None
    inputs: tuple[Tensor, ...] | None = None
    optimizer: SavedOptimizer | None = None
    quantization: Mapping[str, Any] | None = None

    def load_optimizer_(self, optimizer: torch.optim.Optimizer) -> None:
        """Has a new optimizer of this model go on where the saved one stopped, with its state and options.

        Raises:
            UsageError: none was saved, or it is of another class or groups the parameters otherwise.
        """
        if self.optimizer is None:
            raise UsageError("no optimizer was saved with this model: pass optimizer= to save_model")
        self.optimizer.load_(optimizer, self.model)


def save_model(
    folder: Path,
    model: nn.Module,
    *,
    structure: Structure,
    spec: ModelSpec | None = None,
    classes: int | None = None,
    image_shape: ImageShape | None = None,
    inputs: Tensor | tuple[Tensor, ...] | None = None,
    choices: Choices | None = DEFAULT,
    quantization: tuple[str, Mapping[str, Any]] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    masks: Mapping[str, Tensor] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes `model.safetensors` and `structure.json` into `folder`, each whole or not at all.

    Args:
        structure: the cuts that lead from the dense model to this one.
        spec: how the dense model is built; None if only the user's own code can.
        classes, image_shape: of a model of images; one of the zoo needs both.
        inputs: a batch such as the model takes, as it was coupled with. A rewritten program needs it, if its
            input is not one batch of images.
        choices: what a rewritten program was coupled with (`Couplings.choices`); None for a program whose
            quantizers were put into the model's own class.
        quantization: who put quantizers in (of `quantizations`), and its settings.
        optimizer: whose state is kept too, in `optimizer.safetensors`.
        masks: by weight name, bool in the weight's shape, True = kept.
        extra: plain data to keep with the model; comes back as `about`.

    Raises:
        ResourceError: no room, or the folder cannot be written.
        UsageError: `extra` or the model's options are not plain data, a program has no inputs or does not run
            on them, or the optimizer cannot be saved.
    """
    example = _example(model, inputs, image_shape)
    tensors = saved_tensors(model)
    masked = {MASK + name: mask.to(torch.bool) for name, mask in (masks or {}).items()}
    asked = _answers(model, example) if isinstance(model, Program) else {}
    files = {WEIGHTS: _bytes({**tensors, **masked, **tokens_of(example or ()), **asked})}
    content: dict[str, Any] = {
        "format": FORMAT,
        "model": None if spec is None else {"use": spec.ref, "options": dict(spec.options)},
        "classes": classes,
        "image_shape": None if image_shape is None else list(image_shape),
        "inputs": None if example is None else described(example),
        **structure.to_json(),
        "program": asdict(choices) if isinstance(model, Program) and choices is not None else None,
        "masks": sorted(masks or {}),
        "weights": file_entry(WEIGHTS, files[WEIGHTS]),
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
        "optimizer": None,
        "quantization": None if quantization is None else _named(*quantization),
        "torch": str(torch.__version__),
        "about": dict(extra or {}),
    }
    if optimizer is not None:
        entry, state = packed(optimizer, model)
        files[OPTIMIZER] = _bytes(state)
        content["optimizer"] = {**entry, "weights": file_entry(OPTIMIZER, files[OPTIMIZER])}
    _write(folder, content, files)


def read_model(folder: Path | str, *, build: Callable[[], nn.Module] | None = None) -> SavedModel:
    """The model that `save_model` wrote; its outputs are bit-identical.

    The dense model is built, cut as the structure says, and given the saved weights. Models of the zoo are
    built by name. A rewritten program is exported from the dense model anew and must answer as it did.
    Nothing in the files is executed, and a file that changed in any byte is refused.

    Args:
        build: gives the dense model, for models that are not in the zoo.

    Raises:
        DataError: the folder holds no model.
        CorruptArtifact: a file is damaged, was tampered with, or does not fit the model.
        UsageError: the model is not in the zoo and `build` is missing.
    """
    folder = Path(folder)
    document = read_document(folder / STRUCTURE)
    weights = read_tensors(folder, document.weights)
    state = {} if document.optimizer is None else read_tensors(folder, document.optimizer.weights)
    optimizer: SavedOptimizer | None = None
    spec = None if document.model is None else ModelSpec(document.model.use, document.model.options)
    with _misfits(folder, document):
        structure = Structure.from_json({"kept": document.kept, "dropped": document.dropped})
        inputs = _inputs(document, weights)
    dense = build() if build is not None else _built(document, spec, structure, folder)
    with _misfits(folder, document):
        model = _quantized(_cut(dense, structure, document, inputs), document, inputs)
    tensors = saved_tensors(model)
    check_tensors(folder, tensors, document, weights)
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.data = weights[name]
    with _misfits(folder, document):
        if is_program(document):
            check_answers(model, inputs or (), weights)
        if document.optimizer is not None:
            optimizer = unpacked(document.optimizer, state, model)
    return SavedModel(
        model.eval(),
        structure,
        {name: weights[MASK + name] for name in document.masks},
        document.about,
        spec,
        document.classes,
        document.image_shape,
        inputs,
        optimizer,
        None if document.quantization is None else document.quantization.settings,
    )


@contextmanager
def _misfits(folder: Path, document: Document) -> Iterator[None]:
    """Says of which file it is that something does not fit, and of which version of torch."""
    try:
        yield
    except (KezuriError, ValueError) as error:
        raise CorruptArtifact(
            f"{folder / STRUCTURE} does not fit the model: {error}{versions(document)}"
        ) from error


def _example(
    model: nn.Module, inputs: Tensor | tuple[Tensor, ...] | None, image_shape: ImageShape | None
) -> tuple[Tensor, ...] | None:
    """The inputs as given; of a program as it was exported with them, or a batch of images."""
    given = (inputs,) if isinstance(inputs, Tensor) else inputs
    if not isinstance(model, Program):
        return given
    if given is None and image_shape is None:
        raise UsageError("a rewritten program is rebuilt from an example of its inputs: pass inputs=")
    images = next((p.new_zeros(2, *image_shape or ()) for p in model.parameters()), torch.zeros(0))
    return example_batch(model, (images,) if given is None else given)


def _answers(model: nn.Module, example: tuple[Tensor, ...] | None) -> dict[str, Tensor]:
    try:
        return answers_of(model, example or ())
    except Exception as error:
        lines = str(error).splitlines() or [""]
        raise UsageError(
            f"the program does not run on inputs of the shapes {[list(one.shape) for one in example or ()]}: "
            f"{lines[0]}; pass inputs= as the model was coupled with"
        ) from error


def _write(folder: Path, content: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Tensors first, as the structure names their hashes."""
    try:
        document = sealed(content)
    except (TypeError, ValueError) as error:
        raise UsageError(f"options and extra must be plain data that JSON can hold: {error}") from error
    for name, file in files.items():
        write_bytes(folder / name, file)
    write_bytes(folder / STRUCTURE, document)
    if OPTIMIZER not in files:
        (folder / OPTIMIZER).unlink(missing_ok=True)


def _bytes(tensors: Mapping[str, Tensor]) -> bytes:
    return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})


def _inputs(document: Document, weights: Mapping[str, Tensor]) -> tuple[Tensor, ...] | None:
    if document.inputs is not None:
        return inputs_from(document.inputs, weights)
    return None if document.image_shape is None else (torch.zeros(2, *document.image_shape),)


def _cut(
    dense: nn.Module, structure: Structure, document: Document, inputs: tuple[Tensor, ...] | None
) -> nn.Module:
    if document.program is None:
        shrink_(dense, structure)
        return dense
    if inputs is None:
        raise CorruptArtifact("it is a program without an example of its inputs")
    return rebuilt(dense.eval(), structure, inputs, document.program)


def _quantized(model: nn.Module, document: Document, inputs: tuple[Tensor, ...] | None) -> nn.Module:
    if document.quantization is None:
        return model
    if document.quantization.use not in quantizations:
        raise CorruptArtifact(f"it is quantized by {document.quantization.use!r}, which is not known here")
    if inputs is None:
        raise CorruptArtifact("it is quantized and has no example of its inputs")
    return quantizations[document.quantization.use](model.eval(), inputs, document.quantization.settings)


def _named(use: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"use": use, "settings": dict(settings)}


def _built(document: Document, spec: ModelSpec | None, structure: Structure, folder: Path) -> nn.Module:
    classes, shape = document.classes, document.image_shape
    if spec is None or spec.ref not in list(zoo) or classes is None or shape is None:
        name = "the model" if spec is None else repr(spec.ref)
        raise UsageError(
            f"{name} in {folder} is not in the zoo: pass build=, a function that gives the dense model"
        )
    try:
        with torch.device("meta"):
            outline = load_model(spec, classes=classes, image_shape=shape)
        check_outline(outline, structure, document, folder)
        return load_model(spec, classes=classes, image_shape=shape)
    except CorruptArtifact:
        raise
    except KezuriError as error:
        raise CorruptArtifact(f"{folder / STRUCTURE} describes no model of the zoo: {error}") from error
