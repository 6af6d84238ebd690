"""Folders of images, a folder a class."""

import struct
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kezuri.core.errors import DataError, UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
_NATIVE = 256  # the largest size in pixels that is kept as it is
_USUAL, _RESIZED = 224, 256  # larger images: the short side to 256, the middle 224 × 224 of that


@dataclass(frozen=True)
class Frame:
    """How every image is brought to one form.

    Attributes:
        height, width: of the result; images of another size are scaled to cover it and cropped in the middle.
        margin: how much larger than the result an image is scaled before the crop.
        grey: one channel instead of three.
    """

    height: int
    width: int
    margin: float
    grey: bool


@dataclass(frozen=True)
class ImageFiles:
    """A Dataset of image files: uint8 tensors (C, H, W) and labels.

    Attributes:
        paths: the files, class by class.
        targets: their labels.
        frame: what they are brought to; None until it is chosen.
    """

    paths: tuple[Path, ...]
    targets: tuple[int, ...]
    frame: Frame | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        assert self.frame is not None
        return read_image(self.paths[place], self.frame), self.targets[place]

    def __getitems__(self, places: Sequence[int]) -> list[tuple[Tensor, int]]:
        with ThreadPoolExecutor() as pool:
            return list(pool.map(self.__getitem__, places))


@dataclass(frozen=True)
class ImageFolder:
    """What a folder holds: `test` and `validation` are None where there is no such folder."""

    classes: tuple[str, ...]
    train: ImageFiles
    validation: ImageFiles | None
    test: ImageFiles | None
    divided: bool  # the folder has a folder `train`


def image_folders(ref: str, root: Path | None) -> list[Path]:
    """Where a folder of images may be that was asked for, the first first.

    Args:
        ref: a path; one that begins with `./`, `../`, `/` or `~` is what it says.
        root: the folder data sets lie in, if one is named.
    """
    path = Path(ref).expanduser()
    if root is None or path.is_absolute() or ref.split("/")[0] in (".", ".."):
        return [path]
    return [root / path, path]


def scan(root: Path, size: int | None = None) -> ImageFolder:
    """The images under `root/train/<class>/` (and `val` or `validation`, `test`), or under `root/<class>/`.

    Args:
        root: the folder.
        size: side of the square in pixels that every image is brought to. None: the most common size of the
            training images, or 224 × 224 where that is larger than 256.

    Raises:
        DataError: fewer than two classes, a class without images, a class that the training data lacks, or an
            image that cannot be opened (the file is named).
        UsageError: the size is not positive.
    """
    if size is not None and size < 1:
        raise UsageError(f"size is the side of the images in pixels, got {size}")
    divided = (root / "train").is_dir()
    train_root = root / "train" if divided else root
    classes = tuple(sorted(path.name for path in _visible(train_root) if path.is_dir()))
    if len(classes) < 2:
        raise DataError(
            f"{train_root} must hold a folder of images for each of at least 2 classes, "
            f"it holds {', '.join(classes) or 'no folder'}"
        )
    train = _files(train_root, classes)
    validation = test = None
    if divided:
        held = [root / name for name in ("val", "validation") if (root / name).is_dir()]
        validation = _files(held[0], classes) if held else None
        test = _files(root / "test", classes) if (root / "test").is_dir() else None
    frame = _choose_frame(train, [part for part in (validation, test) if part is not None], size)
    framed = [part and replace(part, frame=frame) for part in (validation, test)]
    return ImageFolder(classes, replace(train, frame=frame), framed[0], framed[1], divided)


def read_image(path: Path, frame: Frame) -> Tensor:
    """One image as uint8 (C, H, W).

    Raises:
        DataError: it cannot be decoded; the file is named.
    """
    try:
        with Image.open(path) as opened:
            image = _in_colours(opened, frame.grey)
            pixels = np.array(_fitted(image, frame))
    except _DAMAGE as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error
    return torch.from_numpy(pixels[None] if frame.grey else np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _in_colours(image: Image.Image, grey: bool) -> Image.Image:
    if image.mode == "P":
        image = image.convert("RGBA")  # a palette may be transparent, which RGB has no word for
    return image.convert("L" if grey else "RGB")


def _fitted(image: Image.Image, frame: Frame) -> Image.Image:
    """Scaled to cover the frame, then its middle."""
    if image.size == (frame.width, frame.height):
        return image
    scale = max(frame.width / image.width, frame.height / image.height) * frame.margin
    width = max(frame.width, round(image.width * scale))
    height = max(frame.height, round(image.height * scale))
    left, top = (width - frame.width) // 2, (height - frame.height) // 2
    scaled = image.resize((width, height), Image.Resampling.BILINEAR)
    return scaled.crop((left, top, left + frame.width, top + frame.height))


def _choose_frame(train: ImageFiles, others: Sequence[ImageFiles], size: int | None) -> Frame:
    paths = [*train.paths, *(path for part in others for path in part.paths)]
    with ThreadPoolExecutor() as pool:
        headers = list(pool.map(_header, paths))
    grey = all(mode in ("1", "L", "LA") for mode, _ in headers)
    common, _ = Counter(shape for _, shape in headers[: len(train)]).most_common(1)[0]
    if size is not None:
        return Frame(size, size, 1.0, grey)
    if max(common) > _NATIVE:
        return Frame(_USUAL, _USUAL, _RESIZED / _USUAL, grey)
    return Frame(common[1], common[0], 1.0, grey)


def _header(path: Path) -> tuple[str, tuple[int, int]]:
    """Mode and (width, height)."""
    try:
        with Image.open(path) as image:
            mode, shape = image.mode, image.size
    except _DAMAGE as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error
    if mode.startswith(("I", "F")):
        raise DataError(f"{path} has more than 8 bits a channel (mode {mode}); save it with 8")
    return mode, shape


def _files(root: Path, classes: Sequence[str]) -> ImageFiles:
    folders = [path.name for path in _visible(root) if path.is_dir()]
    strangers = sorted(set(folders) - set(classes))
    if strangers:
        raise DataError(f"{root} holds classes that the training data lacks: {', '.join(strangers)}")
    paths: list[Path] = []
    targets: list[int] = []
    for label, name in enumerate(classes):
        if name not in folders:
            continue
        found = sorted(path for path in (root / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise DataError(f"{root / name} holds no image ({', '.join(SUFFIXES)})")
        paths += found
        targets += [label] * len(found)
    if not paths:
        raise DataError(f"{root} holds no folder of a class")
    return ImageFiles(tuple(paths), tuple(targets))


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]
