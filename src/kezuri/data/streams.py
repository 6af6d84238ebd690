"""Data that is read while it is used: any `torch.utils.data.Dataset` of images and labels."""

import contextlib
import hashlib
import os
import random
from collections.abc import Iterator, Sequence, Sized
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from kezuri.core.errors import DataError
from kezuri.core.seeds import derive
from kezuri.data.augmentation import Augment, Facts
from kezuri.data.checks import check_finite, check_image_type, check_labels, whole_label
from kezuri.data.parts import Batch, Device, Order, Scale, TensorPart, places_of

IN_MEMORY = 2 << 30  # bytes of images that are held in memory rather than read anew each epoch
_SAMPLE = 256  # images that stand for all of them in a digest
_PROBED = 8  # images read twice to see whether reading is random


class Images(Protocol):
    """What is needed of a Dataset: its length, and (image tensor, label) for a place."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int, /) -> tuple[Tensor, int]: ...


AnyDataset = Images | TorchDataset[Any]


class Reader:
    """Reads and checks items of a Dataset, the same ones for the same seed even if it draws at random.

    Args:
        dataset: gives (image tensor (C, H, W), label) for a place; may have `__getitems__` for many at once.
        what: what to call it in messages, such as "training data".

    Raises:
        DataError: the Dataset has no length or no image, or its first item is not an image and a label.
    """

    def __init__(self, dataset: AnyDataset, what: str) -> None:
        self.dataset = cast(Images, dataset)
        self.what = what
        if not isinstance(dataset, Sized):
            raise DataError(
                f"the {what} has no length: a map-style Dataset is needed, got {type(dataset).__name__}"
            )
        if len(dataset) == 0:
            raise DataError(f"the {what} is empty")
        self.shape: tuple[int, ...] | None = None
        first = self.read([0], seed=0)[0]
        self.shape = tuple(first.shape[1:])
        self.dtype = first.dtype

    def read(self, places: Sequence[int], seed: int) -> tuple[Tensor, list[int]]:
        """Images (B, C, H, W) and labels at `places`.

        Raises:
            DataError: an item is not an image and a whole-number label, or differs in shape from the others,
                or holds a value that is not finite; the item is named.
        """
        with repeatable(seed):
            many = getattr(self.dataset, "__getitems__", None)
            items = many(list(places)) if many is not None else [self.dataset[place] for place in places]
        images = [self._image(item, place) for item, place in zip(items, places, strict=True)]
        labels = [
            whole_label(item[1], f"item {p} of the {self.what}")
            for item, p in zip(items, places, strict=True)
        ]
        stacked = torch.stack(images)
        check_finite(stacked, places, self.what)
        return stacked, labels

    def is_random(self) -> bool:
        """Whether reading the same item twice gives two different images, as with random transforms."""
        places = range(min(_PROBED, len(self.dataset)))
        return not torch.equal(self.read(places, seed=1)[0], self.read(places, seed=2)[0])

    def all_labels(self) -> Tensor:
        """The labels, (N,): from `targets` where the Dataset keeps them and they agree, else item by item."""
        count = len(self.dataset)
        known = getattr(self.dataset, "targets", None)
        if known is not None and len(known) == count:
            listed = torch.tensor([int(label) for label in known])
            probe = torch.arange(min(_PROBED, count)) * count // min(_PROBED, count)
            if self.read(probe.tolist(), seed=0)[1] == listed[probe].tolist():
                return listed
        return torch.tensor([label for chunk in _chunks(count) for label in self.read(chunk, seed=0)[1]])

    def _image(self, item: Any, place: int) -> Tensor:
        name = f"item {place} of the {self.what}"
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(f"{name} must be (image, label), got {type(item).__name__}")
        image = item[0]
        if not isinstance(image, Tensor):
            raise DataError(
                f"the image of {name} must be a tensor, got {type(image).__name__}: give the Dataset a "
                f"transform that makes one, such as torchvision's ToTensor"
            )
        check_image_type(image, name)
        if image.ndim != 3 or (self.shape is not None and tuple(image.shape) != self.shape):
            wanted = self.shape if self.shape is not None else "(C, H, W)"
            raise DataError(f"the image of {name} has shape {tuple(image.shape)}, expected {wanted}")
        return image if image.dtype == torch.uint8 else image.float()


class DatasetPart:
    """Images that do not fit in memory, or that differ each time they are read.

    Args:
        reader: the Dataset.
        labels: of all its items, (N,) int64.
        classes: how many classes there are.
        mean, std: of each channel, in [0, 1] for uint8 images.
        rows: which items belong to this part; all when None.
        workers: processes that read ahead; 0 reads in this one.
    """

    def __init__(
        self,
        reader: Reader,
        labels: Tensor,
        *,
        classes: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        rows: Tensor | None = None,
        workers: int = 0,
    ) -> None:
        self._reader = reader
        self._all_labels = labels
        self._rows = torch.arange(len(labels)) if rows is None else rows
        self.classes = classes
        self.workers = workers
        channels = self.image_shape[0]
        self.mean = tuple(mean) if mean is not None else (0.0,) * channels
        self.std = tuple(std) if std is not None else (1.0,) * channels
        self.labels = labels[self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        assert self._reader.shape is not None
        channels, height, width = self._reader.shape
        return channels, height, width

    @property
    def facts(self) -> Facts:
        """See `Part.facts`."""
        return Facts.of(self.classes, self.mean, self.std)

    def batches(
        self,
        batch_size: int,
        *,
        seed: int | None = None,
        augment: Sequence[Augment] = (),
        device: Device = "cpu",
        start: int = 0,
    ) -> Iterator[Batch]:
        """See `Part.batches`; chance inside the Dataset's own transforms comes from the seed, too."""
        order = Order(len(self), batch_size, seed=seed, augment=augment, start=start)
        scale = Scale(self.mean, self.std, self._reader.dtype, device)
        return self._walk(order, scale, torch.device(device))

    def _walk(self, order: Order, scale: Scale, device: torch.device) -> Iterator[Batch]:
        loader = DataLoader(
            _Batches(self._reader, self._rows, order),
            batch_size=None,
            sampler=order.numbers,
            num_workers=min(self.workers, os.cpu_count() or 1),
            generator=torch.Generator().manual_seed(0),
        )
        for number, (images, labels) in zip(order.numbers, loader, strict=True):
            yield order.finish(number, scale(images.to(device)), labels.to(device), self.facts)

    def subset(self, which: Sequence[int] | Tensor | int) -> "DatasetPart":
        """See `Part.subset`."""
        return self._with(rows=self._rows[places_of(which, len(self))])

    def normalized(self, mean: Sequence[float], std: Sequence[float]) -> "DatasetPart":
        """See `Part.normalized`."""
        return self._with(mean=mean, std=std)

    def digest(self) -> str:
        """See `Part.digest`: all labels, and up to 256 images spread evenly."""
        total = hashlib.sha256(f"{self._reader.dtype} {self.image_shape} {len(self)}".encode())
        total.update(self.labels.numpy().data)
        sample = self._rows[places_of(min(_SAMPLE, len(self)), len(self))]
        total.update(self._reader.read(sample.tolist(), seed=0)[0].numpy().data)
        return total.hexdigest()

    def _with(self, **changed: Any) -> "DatasetPart":
        held = {"mean": self.mean, "std": self.std, "rows": self._rows, "classes": self.classes}
        return DatasetPart(self._reader, self._all_labels, workers=self.workers, **{**held, **changed})


class _Batches(TorchDataset[tuple[Tensor, Tensor]]):
    """Batch `number` of an order, so that a loader may fetch batches in any process."""

    def __init__(self, reader: Reader, rows: Tensor, order: Order) -> None:
        self.reader = reader
        self.rows = rows
        self.order = order

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        rows = self.rows[self.order.places(number)].tolist()
        images, labels = self.reader.read(rows, derive(self.order.seed or 0, "read", number))
        return images, torch.tensor(labels)


def in_memory(reader: Reader) -> tuple[Tensor, Tensor] | None:
    """All images and labels, or None when there are too many or reading is random."""
    count = len(reader.dataset)
    first = reader.read([0], seed=0)[0]
    if first.nbytes * count > IN_MEMORY or reader.is_random():
        return None
    images = torch.empty((count, *first.shape[1:]), dtype=first.dtype)
    labels: list[int] = []
    for chunk in _chunks(count):
        images[chunk.start : chunk.stop], read = reader.read(chunk, seed=0)
        labels += read
    return images, torch.tensor(labels)


def part_of(dataset: AnyDataset, what: str, *, classes: int | None, workers: int) -> TensorPart | DatasetPart:
    """A Dataset as a part: in memory when it fits and reading is not random, else streamed.

    Args:
        dataset: the images.
        what: what to call it in messages.
        classes: how many there are; None for one more than the highest label.
        workers: processes that read ahead when it is streamed.

    Raises:
        DataError: an item or a label is not what it should be.
    """
    reader = Reader(dataset, what)
    held = in_memory(reader)
    labels = held[1] if held is not None else reader.all_labels()
    count = check_labels(labels, classes, what)
    if held is not None:
        return TensorPart(held[0], labels, classes=count)
    return DatasetPart(reader, labels, classes=count, workers=workers)


@contextlib.contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Seeds Python, numpy and torch for the block, and puts their state back after it."""
    python, legacy, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)
        torch.set_rng_state(torch_state)


def _chunks(count: int) -> Iterator[range]:
    for first in range(0, count, _SAMPLE):
        yield range(first, min(first + _SAMPLE, count))
