"""A model by whatever names it: a reference, the folder it was saved in, or the folder of a run."""

import inspect
import shlex
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from kezuri.artifact.folder import RECIPE_JSON, RunFolder
from kezuri.core.errors import DataError, UsageError
from kezuri.model.load import ModelSpec, load_model
from kezuri.model.portable import read_model
from kezuri.model.structure_file import STRUCTURE, read_document
from kezuri.model.zoo import zoo

ImageShape = tuple[int, int, int]

CLASSES = 10  # of a model that takes a number of classes and was told none
ELSEWHERE = ("timm", "torchvision")
WEIGHTS = (".pt", ".pth", ".bin", ".safetensors")


@dataclass(frozen=True)
class Subject:
    """A model that was found.

    Attributes:
        name: as a reader would call it.
        image_shape: (channels, height, width) of the images it takes.
    """

    name: str
    model: nn.Module
    image_shape: ImageShape


def find_subject(
    name: str,
    *,
    image_shape: ImageShape | None = None,
    classes: int | None = None,
    weights: Path | None = None,
    build: str | None = None,
) -> Subject:
    """Builds or reads the model that `name` means, on the CPU.

    Args:
        name: a reference such as `resnet20`, `nets.py:small` or `timm:resnet50`; a folder with
            `structure.json`; or the folder of a run, which stands for its final model, or its dense one
            before there is a final.
        image_shape: by default what the saved model was made for, what the model says itself (timm), the
            small images of the zoo, or 3x224x224.
        classes: by default what the saved model was made for, 1000 for timm and torchvision, 10 elsewhere.
        weights: trained weights, for a reference.
        build: a reference to the function that builds the dense model, for a saved model of your own code.

    Raises:
        UsageError: the options do not fit what was named, or the model cannot be built.
        DataError: the folder holds no model, or a file cannot be read.
    """
    path = Path(name)
    if path.is_dir():
        if classes is not None or weights is not None:
            raise UsageError(f"{path} holds its weights, for as many classes as it has")
        return _saved(_model_folder(path), image_shape, build)
    if build is not None:
        raise UsageError(f"--build is for saved models of your own code; {name} is not a folder")
    if path.suffix == ".onnx":
        raise UsageError(f"{name} is an exported file; name the PyTorch model it was made from")
    if path.suffix in WEIGHTS:
        raise UsageError(f"{name} holds weights alone; name the model, and give them with --weights {name}")
    place = name.rpartition(":")[0]
    if classes is None:
        classes = 1000 if place in ELSEWHERE else CLASSES
    shape = image_shape or _usual_shape(name)
    model = load_model(name, classes=classes, image_shape=shape, weights=weights)
    if image_shape is None and place == "timm":
        shape = _own_shape(model) or shape
    return Subject(name, model, shape)


def _model_folder(path: Path) -> Path:
    if not (path / RECIPE_JSON).is_file():
        return path
    run = RunFolder(path)
    for name in ("final", "dense"):
        if (run.model(name) / STRUCTURE).is_file():
            return run.model(name)
    again = f"kezuri resume {shlex.quote(str(path))}"
    raise DataError(f"{path} is a run that has no model yet; `{again}` finishes it")


def _saved(folder: Path, image_shape: ImageShape | None, build: str | None) -> Subject:
    document = read_document(folder / STRUCTURE)
    use = None if document.model is None else document.model.use
    shape = image_shape or document.image_shape
    if shape is None:
        raise UsageError(f"the model in {folder} does not say which images it takes: give --image")
    if build is None:
        if use is None or use not in zoo:
            raise UsageError(
                f"the model in {folder} is of your own code, and reading it runs none of that: name the "
                f"function that builds the dense model, with --build {use or 'FILE.py:FUNCTION'}"
            )
        return Subject(str(folder), read_model(folder).model, shape)
    spec = ModelSpec(build, {} if document.model is None else document.model.options)
    classes, built_for = document.classes or CLASSES, document.image_shape or shape
    saved = read_model(folder, build=lambda: load_model(spec, classes=classes, image_shape=built_for))
    return Subject(str(folder), saved.model, shape)


def _usual_shape(name: str) -> ImageShape:
    """What a model of the zoo is for, and 3x224x224 for any other."""
    if name not in zoo:
        return 3, 224, 224
    said = inspect.signature(zoo[name]).parameters
    channels = said["channels"].default if "channels" in said else 3
    side = said["image_size"].default if "image_size" in said else 32
    return channels, side, side


def _own_shape(model: nn.Module) -> ImageShape | None:
    """What a model of timm says it was trained on."""
    said = getattr(model, "default_cfg", {}).get("input_size")
    return (int(said[0]), int(said[1]), int(said[2])) if said is not None and len(said) == 3 else None
