"""Data to train on, choose by, and judge with: by name, from a folder of images, or the user's own."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

import kezuri.data.known  # noqa: F401  registers the named data sets
from kezuri.core.errors import DataError, UnknownName, UsageError
from kezuri.core.registry import unknown
from kezuri.data.catalog import Arrays, find, named
from kezuri.data.checks import check_image_type, check_labels
from kezuri.data.images import ImageFolder, image_folders, scan
from kezuri.data.normalization import Normalization, normalization
from kezuri.data.parts import Part, TensorPart
from kezuri.data.splits import SHARES, set_aside
from kezuri.data.streams import AnyDataset, part_of

TEST_SHARE = 0.2  # of a folder of images that has no test part of its own

Validation = int | float
Source = Literal["train", "test"]


@dataclass(frozen=True)
class Data:
    """A data set in three parts.

    Attributes:
        name: what it was asked for by.
        train: what weights are fitted to.
        validation: what decisions are made by; never trained on.
        test: what is only reported, if there is any.
        classes: their names, by label.
        mean, std: what images are normalised by, channel by channel.
        fingerprint: SHA-256 over images, labels, the split and the normalisation.
        source: in words, where it came from.
    """

    name: str
    train: Part
    validation: Part
    test: Part | None
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    source: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.train.image_shape

    def describe(self) -> dict[str, Any]:
        """Plain data for a run's manifest."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "name": self.name,
            "source": self.source,
            "fingerprint": self.fingerprint,
            "classes": list(self.classes),
            "images": {name: len(part) for name, part in parts.items() if part is not None},
            "image_shape": list(self.image_shape),
            "mean": [round(value, 6) for value in self.mean],
            "std": [round(value, 6) for value in self.std],
        }


def load_data(
    ref: str,
    *,
    root: Path | str | None = None,
    validation: Validation | None = None,
    validation_from: Source = "train",
    seed: int = 0,
    normalize: Normalization | None = None,
    download: bool = True,
    size: int | None = None,
) -> Data:
    """A data set by name, or a folder of images.

    Args:
        ref: `fashion-mini` (comes with the package), `mnist`, `fashion-mnist`, `cifar10`, `cifar100`, or the
            path of a folder with `train/<class>/*.png` (and `val`, `test`), or with `<class>/*.png` alone, of
            which a fifth becomes the test part; a path is looked for as `image_folders` says.
        root: where data sets lie; None for `KEZURI_DATA`, `./data`, then the cache.
        validation: the fraction, or number, of images set aside by class; not used for a folder that has a
            validation part. None for a tenth of the training images, or half of the test images.
        validation_from: where they are taken: from the images to `train` on, or, for a model that has seen
            all of those already, from the `test` images, of which the others stay for the test.
        seed: which images are set aside.
        normalize: mean and standard deviation of each channel in [0, 1]; None for the published ones of a
            named data set, else those of the training images.
        download: whether a named data set that is nowhere may be fetched.
        size: side in pixels that a folder's images are brought to; None for their most common size, or 224
            where that is above 256.

    Raises:
        UnknownName: `ref` is no known name.
        DataError: the data is missing, damaged, or not what it should be; the message says where it was
            looked for.
        UsageError: a setting makes no sense.
    """
    root = None if root is None else Path(root)
    if validation_from not in get_args(Source):
        raise UsageError(f"validation is taken from 'train' or 'test', got {validation_from!r}")
    validation = SHARES[validation_from] if validation is None else validation
    if ref in data_names():
        if size is not None:
            raise UsageError(f"size is for folders of images; {ref} has one size")
        known = named[ref]
        arrays, source = find(ref, known, root=root, download=download)
        scale = normalize or (known.mean, known.std)
        return _from_arrays(
            arrays, _Wanted(ref, source, known.classes, validation, seed, scale, validation_from)
        )
    folders = image_folders(ref, root)
    folder = next((one for one in folders if one.is_dir()), None)
    if folder is not None:
        found = scan(folder, size)
        wanted = _Wanted(
            folder.resolve().name,
            "a folder of images",
            found.classes,
            validation,
            seed,
            normalize,
            validation_from,
        )
        return _from_folder(found, wanted)
    where = "there is no folder " + " nor ".join(map(str, folders))
    if "/" in ref or "\\" in ref or ref.startswith((".", "~")):
        raise DataError(where)
    raise UnknownName(f"{unknown('data set', ref, named)}; {where} either")


def data_names() -> tuple[str, ...]:
    """The names that `load_data` knows besides folders of images."""
    return tuple(named)


def from_dataset(
    train: AnyDataset,
    test: AnyDataset | None = None,
    *,
    validation: Validation | AnyDataset = 0.1,
    seed: int = 0,
    name: str = "custom",
    classes: Sequence[str] | None = None,
    normalize: Normalization | None = None,
    workers: int = 0,
) -> Data:
    """Your own `torch.utils.data.Dataset` of (image tensor (C, H, W), label) pairs.

    Up to 2 GiB of images are read into memory once. Larger data, and data whose transforms are random, is
    read anew each epoch; its chance then comes from the run's seed.

    Args:
        train: the training data. Transforms should not normalise; that is done here.
        test: what is only reported, if there is any.
        validation: the fraction or number of training images set aside by class, or a Dataset. Give a Dataset
            when the training data has random transforms, which would apply to the images set aside as well.
        seed: which images are set aside.
        name: for the manifest.
        classes: names by label; None for "0", "1", ….
        normalize: mean and standard deviation of each channel; None to compute them from training data.
        workers: processes that read ahead where data is read anew each epoch.

    Raises:
        DataError: an item is not an image and a label, labels are out of range or no whole numbers, shapes
            differ, values are not finite, or there are no images.
    """
    count = None if classes is None else len(classes)
    pool = part_of(train, "training data", classes=count, workers=workers)
    share: Validation | Part
    if isinstance(validation, int | float):
        share = validation
    else:
        share = part_of(validation, "validation data", classes=pool.classes, workers=workers)
    judged = None if test is None else part_of(test, "test data", classes=pool.classes, workers=workers)
    names = tuple(classes) if classes is not None else tuple(str(label) for label in range(pool.classes))
    return _assemble(pool, judged, _Wanted(name, "the caller's Dataset", names, share, seed, normalize))


def from_tensors(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor] | None = None,
    *,
    validation: Validation = 0.1,
    seed: int = 0,
    name: str = "custom",
    classes: Sequence[str] | None = None,
    normalize: Normalization | None = None,
) -> Data:
    """Your own images and labels in memory: (N, C, H, W) uint8 or float, and (N,) whole numbers.

    Args:
        train: images and labels; the tensors are used as they are, not copied.
        test: the same for what is only reported, if there is any.
        validation, seed, name, classes, normalize: as for `from_dataset`.

    Raises:
        DataError: shapes or types do not fit, labels are out of range, values are not finite, or it is empty.
    """
    count = None if classes is None else len(classes)
    pool = _tensor_part(train, "training data", count)
    judged = None if test is None else _tensor_part(test, "test data", pool.classes)
    names = tuple(classes) if classes is not None else tuple(str(label) for label in range(pool.classes))
    return _assemble(pool, judged, _Wanted(name, "the caller's tensors", names, validation, seed, normalize))


@dataclass(frozen=True)
class _Wanted:
    """What was asked for, on the way to a Data."""

    name: str
    source: str
    classes: tuple[str, ...]
    validation: Validation | Part
    seed: int
    normalize: Normalization | None
    validation_from: Source = "train"


def _assemble(pool: Part, test: Part | None, wanted: _Wanted) -> Data:
    """Sets validation data aside, normalises all parts alike, and takes the fingerprint."""
    train = pool
    if not isinstance(wanted.validation, int | float):
        validation = wanted.validation
    elif wanted.validation_from == "train":
        kept, aside = set_aside(pool.labels, wanted.validation, seed=wanted.seed, purpose="validation")
        train, validation = pool.subset(kept), pool.subset(aside)
    elif test is not None:
        kept, aside = set_aside(test.labels, wanted.validation, seed=wanted.seed, purpose="validation")
        test, validation = test.subset(kept), test.subset(aside)
    else:
        raise DataError(f"{wanted.name} has no test images to take validation images from")
    for name, part in (("validation", validation), ("test", test)):
        if part is not None and part.image_shape != train.image_shape:
            raise DataError(
                f"the {name} data has images of shape {part.image_shape}, the training data of "
                f"{train.image_shape}"
            )
    mean, std = normalization(train, wanted.normalize)
    digests = [
        train.digest(),
        validation.digest(),
        test.digest() if test is not None else "",
        repr((mean, std)),
    ]
    return Data(
        name=wanted.name,
        train=train.normalized(mean, std),
        validation=validation.normalized(mean, std),
        test=None if test is None else test.normalized(mean, std),
        classes=wanted.classes,
        mean=mean,
        std=std,
        fingerprint=hashlib.sha256("\n".join(digests).encode()).hexdigest(),
        source=wanted.source,
    )


def _from_arrays(arrays: Arrays, wanted: _Wanted) -> Data:
    parts = [
        TensorPart(torch.tensor(images), torch.tensor(labels).long(), classes=len(wanted.classes))
        for images, labels in (
            (arrays.train_images, arrays.train_labels),
            (arrays.test_images, arrays.test_labels),
        )
    ]
    return _assemble(parts[0], parts[1], wanted)


def _from_folder(found: ImageFolder, wanted: _Wanted) -> Data:
    count = len(found.classes)
    pool: Part = part_of(found.train, "training data", classes=count, workers=0)
    test: Part | None = None
    if found.test is not None:
        test = part_of(found.test, "test data", classes=count, workers=0)
    elif not found.divided:
        kept, aside = set_aside(pool.labels, TEST_SHARE, seed=wanted.seed, purpose="test")
        pool, test = pool.subset(kept), pool.subset(aside)
    share = wanted.validation
    if found.validation is not None:
        share = part_of(found.validation, "validation data", classes=count, workers=0)
    return _assemble(pool, test, replace(wanted, validation=share))


def _tensor_part(given: tuple[Tensor, Tensor], what: str, classes: int | None) -> TensorPart:
    images, labels = given
    if images.ndim != 4 or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"the {what} must be images (N, C, H, W) and labels (N,), got {tuple(images.shape)} and "
            f"{tuple(labels.shape)}"
        )
    if len(images) == 0:
        raise DataError(f"the {what} is empty")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(f"the labels of the {what} must be whole numbers, got {labels.dtype}")
    check_image_type(images, f"the {what}")
    images = images if images.dtype == torch.uint8 else images.float()
    if images.is_floating_point():
        wrong = (~torch.isfinite(images).flatten(1).all(1)).nonzero()
        if len(wrong):
            raise DataError(
                f"item {int(wrong[0])} of the {what} holds values that are not finite (NaN or inf)"
            )
    labels = labels.long()
    return TensorPart(images, labels, classes=check_labels(labels, classes, what))
