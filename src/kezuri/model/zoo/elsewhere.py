"""Builders from elsewhere: your own files and packages, timm, torchvision."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from hashlib import sha256
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any

import torch
from torch import nn

from kezuri.core.errors import ModelError, UnknownName
from kezuri.core.registry import unknown
from kezuri.model.zoo.registry import Builder

OWN = "_kezuri_model_"
"""How the names of modules begin that were imported from a file, by its path."""

# frames that say nothing about the user's mistake
MACHINERY = {
    __file__,
    importlib.__file__,
    "<frozen importlib._bootstrap>",
    "<frozen importlib._bootstrap_external>",
}


def find_builder(place: str, name: str) -> Builder:
    """The function `name` of a file, a module, `timm` or `torchvision`.

    Raises:
        ModelError: the place cannot be imported; for your own code the error names the line.
        UnknownName: the place has no such function or model.
    """
    if place == "timm":
        return _timm(name)
    if place == "torchvision":
        return _torchvision(name)
    module = import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    builder = getattr(module, name, None)
    if not callable(builder):
        own = [key for key, value in vars(module).items() if key[0] != "_" and _defines(module, value)]
        raise unknown(f"function in {place}", name, own)
    return builder  # type: ignore[no-any-return]


def where(error: BaseException, source: str | None = None) -> str:
    """The error in one line, with the place a reader can act on: in the file `source`, if it passed there."""
    said = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [frame for frame in extract_tb(error.__traceback__) if frame.filename not in MACHINERY]
    frames = [frame for frame in frames if frame.filename == source] or frames
    return f"{frames[-1].filename}:{frames[-1].lineno}: {said}" if frames else said


def _defines(module: ModuleType, value: object) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module.__name__


def own_files() -> list[Path]:
    """The files that were imported by their path, which another process has to import before it unpickles."""
    return [Path(str(module.__file__)) for name, module in sys.modules.items() if name.startswith(OWN)]


def import_file(path: Path) -> ModuleType:
    """Runs a file as a module of its own.

    Raises:
        ModelError: there is no such file, or it fails; the error names the line.
    """
    if not path.is_file():
        raise ModelError(f"no file {path} (looked in {Path.cwd()})")
    path = path.resolve()
    name = f"{OWN}{sha256(str(path).encode()).hexdigest()[:12]}"
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        with importable(path.parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ModelError(f"{path} cannot be imported: {where(error, str(path))}") from error
    return module


def _import_module(name: str) -> ModuleType:
    try:
        with importable(Path.cwd()):
            return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise ModelError(f"{name} cannot be imported: {where(error)}") from error


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Has modules in a folder importable for a while."""
    # last on the path, so that a file beside the user's model never hides an installed package
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _timm(name: str) -> Builder:
    timm = _extra("timm")
    if not timm.is_model(name):
        raise _unlisted("timm", name, timm.list_models())

    def build(num_classes: int, in_chans: int, **options: Any) -> nn.Module:
        model: nn.Module = timm.create_model(name, num_classes=num_classes, in_chans=in_chans, **options)
        return model

    return build


def _torchvision(name: str) -> Builder:
    models = _extra("torchvision").models
    if name not in models.list_models():
        raise _unlisted("torchvision.models", name, models.list_models())

    def build(num_classes: int, **options: Any) -> nn.Module:
        model: nn.Module = models.get_model(name, num_classes=num_classes, **options)
        return model

    return build


def _unlisted(package: str, name: str, have: list[str]) -> UnknownName:
    near = get_close_matches(name, have, n=3)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return UnknownName(
        f"{package} has no model {name!r}; {package}.list_models() names all {len(have)}{hint}"
    )


def _extra(package: str) -> Any:
    """An optional package; torchvision, which timm imports too, is helped over a missing extension."""
    if find_spec(package) is None:
        raise ModelError(f"{package} is not installed: pip install 'kezuri[{package}]'")
    try:
        if find_spec("torchvision") is not None:
            _import_torchvision()
        return importlib.import_module(package)
    except Exception as error:
        raise ModelError(f"{package} cannot be imported: {type(error).__name__}: {error}") from error


def _import_torchvision() -> None:
    # beside a CPU build of torch, torchvision's compiled operators do not load, and its Python then asks for
    # two of them by name; declaring their schemas is all the models need
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        torch.library.define(
            "torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
        torch.library.define(
            "torchvision::qnms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
        importlib.import_module("torchvision")
