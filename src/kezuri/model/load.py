"""Models by reference: from the zoo, from your own file or package, from timm or torchvision."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from kezuri.core.errors import DataError, ModelError, RecipeError, UnknownName, users_line
from kezuri.core.registry import unknown
from kezuri.core.seeds import derive
from kezuri.model.modes import device_of, evaluating
from kezuri.model.zoo import Builder, zoo
from kezuri.model.zoo.elsewhere import find_builder, where

REFERENCES: Mapping[str, str] = {
    "NAME": "a model of the zoo",
    "FILE.py:FUNCTION": "a function (or class) in your own file",
    "PACKAGE.MODULE:FUNCTION": "a function (or class) of an installed package",
    "timm:NAME": "a model of timm (pip install 'kezuri[timm]')",
    "torchvision:NAME": "a model of torchvision (pip install 'kezuri[torchvision]')",
}


@dataclass(frozen=True)
class ModelSpec:
    """Which model to build, and the options its function is called with.

    Attributes:
        ref: one of the forms in `REFERENCES`, such as `resnet20` or `nets.py:small`.
        options: keyword arguments for the function, such as `{"width": 0.5}`.
    """

    ref: str
    options: Mapping[str, Any] = field(default_factory=dict)


def load_model(
    spec: ModelSpec | str,
    *,
    classes: int,
    image_shape: tuple[int, int, int],
    weights: Path | str | None = None,
    seed: int = 0,
) -> nn.Module:
    """Builds a model on the CPU; the same seed gives the same starting weights.

    A function is told the number of classes as `classes` or `num_classes`, the image's channels as
    `in_channels` or `in_chans`, and its side as `image_size` or `img_size`, where it has such a parameter and
    no option sets it.

    Args:
        spec: which model, or only its reference.
        classes: how many answers it must give.
        image_shape: (channels, height, width) of the images it will see.
        weights: a `.safetensors` file or a state dict saved by torch, to start from.
        seed: for the starting weights; the global random state stays as it was.

    Raises:
        UnknownName: the zoo, timm or torchvision has no such model, or the function no such option.
        RecipeError: an option the function needs is missing.
        ModelError: the file or package cannot be imported, building fails, or the weights do not fit.
        DataError: the weights cannot be read, or would run code.
    """
    spec = ModelSpec(spec) if isinstance(spec, str) else spec
    builder = _builder(spec.ref)
    options = _arguments(builder, spec, classes=classes, image_shape=image_shape)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(derive(seed, "model"))
        try:
            model = builder(**options)
        except (RecipeError, ModelError):
            raise
        except (Exception, SystemExit) as error:
            place = where(error, inspect.getsourcefile(builder))
            raise ModelError(f"{spec.ref} cannot be built: {place}") from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{spec.ref} gives an object of type {type(model).__name__}, a torch.nn.Module is needed"
        )
    if weights is not None:
        load_weights_(model, Path(weights))
    return model


def load_weights_(model: nn.Module, path: Path) -> None:
    """Puts the weights of a file into `model`: safetensors, or a state dict that torch saved.

    Nothing in the file is executed. The prefix `module.` of data-parallel training is dropped.

    Raises:
        DataError: no such file, not a state dict, or values that are not finite.
        ModelError: names or shapes differ from the model's; they are listed.
    """
    found = {name.removeprefix("module."): value for name, value in _state_dict(path).items()}
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    shapes = [
        f"{name} is {tuple(found[name].shape)} in the file and {tuple(value.shape)} in the model"
        for name, value in wanted.items()
        if name in found and found[name].shape != value.shape
    ]
    problems = {
        "missing in the file": missing,
        "not in the model": [name for name in found if name not in wanted],
        "of another shape": shapes,
    }
    told = [f"{len(names)} {what}: {_some(names)}" for what, names in problems.items() if names]
    if told:
        raise ModelError(f"the weights in {path} do not fit the model; " + "; ".join(told))
    broken = [name for name, value in found.items() if not value.isfinite().all()]
    if broken:
        raise DataError(f"{path} holds values that are not finite, in {_some(broken)}")
    model.load_state_dict(found, strict=False)


def check_fits(model: nn.Module, image_shape: tuple[int, int, int], classes: int) -> None:
    """Runs two black images through the model, so that a misfit shows before hours of training.

    Raises:
        ModelError: it cannot take images of this shape, or does not answer one number a class.
    """
    given = "x".join(map(str, image_shape))
    images = torch.zeros(2, *image_shape, device=device_of(model))
    with evaluating(model), torch.no_grad():
        try:
            answer = model(images)
        except Exception as error:
            place = f" at {line}" if (line := users_line(error)) else ""
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0].rstrip('.')}{place}"
            raise ModelError(
                f"the model cannot take images of {given} (channels x height x width): {reason}. "
                + _advice(model, image_shape)
            ) from error
    if not isinstance(answer, Tensor):
        raise ModelError(
            f"the model answers images of {given} with a {type(answer).__name__}; "
            f"return one tensor of logits, (images, {classes})"
        )
    if tuple(answer.shape) != (2, classes):
        raise ModelError(
            f"for 2 images of {given} the model answers {tuple(answer.shape)}, but the data has {classes} "
            f"classes, so (2, {classes}) is needed: build it for {classes} classes"
        )
    if not answer.isfinite().all():
        raise ModelError(f"the model answers black images of {given} with numbers that are not finite")


def _builder(ref: str) -> Builder:
    place, colon, name = ref.rpartition(":")
    if colon:
        return find_builder(place, name)
    if ref.endswith(".py"):
        raise ModelError(f"{ref} is a file; name the function in it that builds the model, as {ref}:FUNCTION")
    try:
        return zoo[ref]
    except UnknownName as error:
        others = ", ".join(form for form in REFERENCES if ":" in form)
        raise UnknownName(f"{error}; models from elsewhere are written {others}") from None


def _arguments(
    builder: Builder, spec: ModelSpec, *, classes: int, image_shape: tuple[int, int, int]
) -> dict[str, Any]:
    signature = inspect.signature(builder)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    names = [
        name for name, p in signature.parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    if not takes_any:
        for option in spec.options:
            if option not in names:
                raise unknown(f"option of {spec.ref}", option, names)
    channels, height, width = image_shape
    facts: dict[str, Any] = dict.fromkeys(("classes", "num_classes"), classes)
    facts |= dict.fromkeys(("in_channels", "in_chans"), channels)
    if builder in zoo.values():
        # elsewhere `channels` may well mean the widths of the layers
        facts["channels"] = channels
    if height == width:
        facts |= dict.fromkeys(("image_size", "img_size"), height)
    arguments = {name: value for name, value in facts.items() if name in names} | dict(spec.options)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise RecipeError(f"{spec.ref} cannot be called: {error}; give it in the model's options") from error
    return arguments


def _state_dict(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise DataError(f"no file {path} to read weights from")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path} is not a safetensors file: {error}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(
            f"{path} is not a plain state dict of tensors, and reading anything else would run code from the "
            "file; save it with torch.save(model.state_dict(), …) or as safetensors"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DataError(f"{path} does not hold a state dict (names and tensors)")
    return dict(content)


def _advice(model: nn.Module, image_shape: tuple[int, int, int]) -> str:
    conv = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if conv is not None and conv.in_channels != image_shape[0]:
        return (
            f"Its first convolution takes {conv.in_channels} channels: build it for {image_shape[0]}, "
            f"or convert the images"
        )
    return (
        "The images may be too small for its poolings, or it was built for another size: resize them, or it"
    )


def _some(names: list[str], shown: int = 5) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
