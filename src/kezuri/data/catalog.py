"""The data sets known by name: what their files are called, where they can be had, what they must hash to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from kezuri.core.errors import DataError
from kezuri.core.registry import Registry
from kezuri.data import cifar
from kezuri.data.formats import Pixels, decode_planes, parse_idx, read_npz, unpacked
from kezuri.data.sources import Download, check_hash, data_folders, decoded_once


@dataclass(frozen=True)
class Arrays:
    """A data set as it was published: uint8 images (N, C, H, W) and labels (N,), training and test."""

    train_images: Pixels
    train_labels: Pixels
    test_images: Pixels
    test_labels: Pixels


class Form(Protocol):
    """One form that a data set is stored in."""

    def read(self, folder: Path) -> Arrays | str:
        """The data in `folder`, or what was looked for and not found; DataError when it is damaged."""


@dataclass(frozen=True)
class IdxFiles:
    """The four idx files of MNIST and of those that copy its form, gzipped or not.

    Attributes:
        sha256: of the unpacked files: training images, training labels, test images, test labels.
    """

    sha256: tuple[str, str, str, str]
    names = (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    )

    def read(self, folder: Path) -> Arrays | str:
        paths = [next(iter(self._places(folder, name)), None) for name in self.names]
        missing = [f"{name}[.gz]" for name, path in zip(self.names, paths, strict=True) if path is None]
        if missing:
            return ", ".join(missing)
        arrays = []
        for path, sha256 in zip(paths, self.sha256, strict=True):
            assert path is not None
            content = unpacked(path)
            arrays.append(parse_idx(content, path))
            check_hash(content, sha256, path)
        train, train_labels, test, test_labels = arrays
        return Arrays(train[:, None], train_labels, test[:, None], test_labels)

    @staticmethod
    def _places(folder: Path, name: str) -> list[Path]:
        return [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]


@dataclass(frozen=True)
class CifarFiles:
    """The "python" or "binary" version of CIFAR, as the published archive or extracted.

    Attributes:
        places: names of the extracted folder and of the archive.
        train: the training files in order, with their MD5 where one is published.
        test: the same for the test file.
        labels: the pickles' entry with the labels; None for the binary version.
        label_bytes: labels a record of the binary version starts with.
        each: images per class in training and test data, which catches what no hash does.
    """

    places: tuple[str, str]
    train: Mapping[str, str | None]
    test: Mapping[str, str | None]
    labels: str | None
    label_bytes: int = 1
    each: tuple[int, int] = (5000, 1000)

    def read(self, folder: Path) -> Arrays | str:
        candidates = [folder / name for name in self.places]
        if all((folder / name).is_file() for name in (*self.train, *self.test)):
            candidates.append(folder)
        place = next((path for path in candidates if path.exists()), None)
        if place is None:
            return " or ".join(self.places)
        members = cifar.read_members(place, [*self.train, *self.test])
        images, labels = self._part(members, self.train, place, self.each[0])
        return Arrays(images, labels, *self._part(members, self.test, place, self.each[1]))

    def _part(
        self, members: Mapping[str, bytes], hashes: Mapping[str, str | None], place: Path, each: int
    ) -> tuple[Pixels, Pixels]:
        parsed = []
        for name, md5 in hashes.items():
            if md5 is not None:
                check_hash(members[name], md5, place / name)
            parsed.append(self._parse(members[name], str(place / name)))
        labels = np.concatenate([labels for _, labels in parsed])
        counts = np.bincount(labels)
        if set(counts.tolist()) != {each}:
            raise DataError(
                f"{place} is damaged: {', '.join(hashes)} hold {counts.min()} to {counts.max()} "
                f"images a class, expected {each}"
            )
        return np.concatenate([images for images, _ in parsed]), labels

    def _parse(self, content: bytes, name: str) -> tuple[Pixels, Pixels]:
        if self.labels is None:
            return cifar.parse_binary(content, name, self.label_bytes)
        return cifar.parse_pickle(content, name, self.labels)


@dataclass(frozen=True)
class PlanesFile:
    """One .npz of colour planes (`formats.decode_planes`), training images first.

    Attributes:
        name: the file.
        images, labels: SHA-256 of the decoded images and of the labels.
        train: how many of the images are training data.
    """

    name: str
    images: str
    labels: str
    train: int = 50_000

    def read(self, folder: Path) -> Arrays | str:
        path = folder / self.name
        if not path.is_file():
            return self.name
        labels = self._labels(path)
        images = decoded_once(path.stem, self.images, lambda: decode_planes(read_npz(path)))
        train = slice(None, self.train), slice(self.train, None)
        return Arrays(images[train[0]], labels[train[0]], images[train[1]], labels[train[1]])

    def _labels(self, path: Path) -> Pixels:
        labels = read_npz(path, only=("labels",)).get("labels")
        if labels is None:
            raise DataError(f"{path} holds no labels")
        check_hash(np.ascontiguousarray(labels).data, self.labels, f"{path} (labels)")
        return labels


@dataclass(frozen=True)
class Bundled:
    """An .npz that comes with the package: `train_images`, `train_labels`, `test_images`, `test_labels`."""

    name: str
    sha256: str

    def read(self, folder: Path) -> Arrays | str:
        path = folder / self.name
        if not path.is_file():
            return self.name
        held = read_npz(path)
        arrays = Arrays(**{key: held[key] for key in Arrays.__dataclass_fields__})
        check_hash(content_of(arrays), self.sha256, path)
        return arrays


def content_of(arrays: Arrays) -> bytes:
    """All bytes of a data set in a fixed order, for hashing."""
    return b"".join(getattr(arrays, key).tobytes() for key in Arrays.__dataclass_fields__)


@dataclass(frozen=True)
class Known:
    """A data set that can be asked for by name.

    Attributes:
        title: for people.
        classes: the names, by label.
        mean, std: of each channel over the training images scaled to [0, 1].
        forms: how it may be stored, best first.
        folders: names of the folder it may lie in under a data folder ("" is the data folder itself).
        downloads: the files to fetch when it is nowhere.
        home: the only folder to look in, for what comes with the package.
    """

    title: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    forms: tuple[Form, ...]
    folders: tuple[str, ...] = ()
    downloads: tuple[Download, ...] = ()
    home: Path | None = field(default=None)


named: Registry[Known] = Registry("data set")


def find(name: str, known: Known, *, root: Path | None, download: bool) -> tuple[Arrays, str]:
    """A named data set from the first place that holds it, downloaded if none does.

    Returns:
        the data, and in words where it came from.

    Raises:
        DataError: it is nowhere (the message lists every folder and address tried, each with the reason), or
            a file of it is damaged (the file is named).
    """
    tried: list[str] = []
    if known.home is not None:
        found = _look(known.forms, known.home, tried)
        if found is not None:
            return found, f"{known.title}, comes with kezuri"
    else:
        places = [place / folder for place in data_folders(root) for folder in known.folders]
        for place in places:
            found = _look(known.forms, place, tried)
            if found is not None:
                return found, f"{known.title}, local files"
        target = data_folders(root)[-1] / name
        if not download:
            tried.append("downloading was not allowed")
        elif all(file.fetch(target, tried) for file in known.downloads):
            found = _look(known.forms, target, tried)
            if found is not None:
                return found, f"{known.title}, downloaded"
    listing = "".join(f"\n  {line}" for line in tried)
    raise DataError(f"the data set {name!r} ({known.title}) was not found; tried:{listing}")


def _look(forms: Sequence[Form], folder: Path, tried: list[str]) -> Arrays | None:
    if not folder.is_dir():
        tried.append(f"{folder}: no such folder")
        return None
    missing = []
    for form in forms:
        found = form.read(folder)
        if isinstance(found, Arrays):
            return found
        missing.append(found)
    tried.append(f"{folder}: no {' nor '.join(missing)}")
    return None
