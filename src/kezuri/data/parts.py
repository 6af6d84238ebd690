"""One part of a data set: batches of normalised images, the same ones for the same seed."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from kezuri.core.errors import UsageError
from kezuri.core.seeds import derive
from kezuri.data.augmentation import Augment, Facts

Device = torch.device | str


@dataclass(frozen=True)
class Batch:
    """What a model sees in one step.

    Attributes:
        images: (B, C, H, W) float32, normalised.
        targets: (B,) int64 labels, or (B, classes) float32 distributions after mixup or cutmix.
    """

    images: Tensor
    targets: Tensor


class Part(Protocol):
    """Training, validation or test data."""

    def __len__(self) -> int: ...

    @property
    def labels(self) -> Tensor:
        """(N,) int64."""

    @property
    def classes(self) -> int:
        """How many classes there are, whether or not this part has images of each."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""

    @property
    def facts(self) -> Facts:
        """What augmentations are told of it."""

    def batches(
        self,
        batch_size: int,
        *,
        seed: int | None = None,
        augment: Sequence[Augment] = (),
        device: Device = "cpu",
        start: int = 0,
    ) -> Iterator[Batch]:
        """The part once, batch by batch.

        Args:
            batch_size: images a batch; the last one may have fewer.
            seed: None for file order without augmentation. Otherwise order and augmentation come from it
                alone, and a last batch of a single image is left out, which BatchNorm could not train on.
            augment: applied in order to the normalised images.
            device: where the batches are put.
            start: skips this many batches; the others are bit for bit what they would have been.

        Raises:
            UsageError: the batch size or the start makes no sense, or there is augmentation without a seed.
        """

    def subset(self, which: Sequence[int] | Tensor | int) -> Self:
        """Some of the images: those at the given places, or a number of them spread evenly over the part."""

    def normalized(self, mean: Sequence[float], std: Sequence[float]) -> Self:
        """The same part with images scaled by (x − mean) / std, channel by channel."""

    def digest(self) -> str:
        """A SHA-256 over images and labels; where images are not in memory, over labels and a sample."""


class TensorPart:
    """Images in memory; they are gathered, moved, normalised and augmented a batch at a time.

    Args:
        images: (N, C, H, W), uint8 (taken as fractions of 255) or float.
        labels: (N,) int64.
        classes: how many classes there are; None for one more than the highest label.
        mean, std: of each channel, in [0, 1] for uint8 images.
        rows: which of the images belong to this part; all when None.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        classes: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        rows: Tensor | None = None,
    ) -> None:
        self._all_images = images
        self._all_labels = labels
        self._rows = torch.arange(len(images)) if rows is None else rows
        self.classes = int(labels.max()) + 1 if classes is None else classes
        channels = images.shape[1]
        self.mean = tuple(mean) if mean is not None else (0.0,) * channels
        self.std = tuple(std) if std is not None else (1.0,) * channels
        self.labels = labels[self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def images(self) -> Tensor:
        """(N, C, H, W) as they are stored, not normalised."""
        return self._all_images[self._rows]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self._all_images.shape[1:]
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
        """See `Part.batches`."""
        order = Order(len(self), batch_size, seed=seed, augment=augment, start=start)
        scale = Scale(self.mean, self.std, self._all_images.dtype, device)
        return self._walk(order, scale, torch.device(device))

    def _walk(self, order: "Order", scale: "Scale", device: torch.device) -> Iterator[Batch]:
        for number in order.numbers:
            places = order.places(number)
            images = self._all_images.index_select(0, self._rows[places])
            yield order.finish(number, scale(images.to(device)), self.labels[places].to(device), self.facts)

    def subset(self, which: Sequence[int] | Tensor | int) -> "TensorPart":
        """See `Part.subset`; the images are shared, not copied."""
        return self._with(rows=self._rows[places_of(which, len(self))])

    def normalized(self, mean: Sequence[float], std: Sequence[float]) -> "TensorPart":
        """See `Part.normalized`."""
        return self._with(mean=mean, std=std)

    def digest(self) -> str:
        """See `Part.digest`."""
        total = hashlib.sha256(f"{self._all_images.dtype} {self.image_shape} {len(self)}".encode())
        for first in range(0, len(self), 4096):
            rows = self._rows[first : first + 4096]
            total.update(self._all_images.index_select(0, rows).numpy().data)
        total.update(self.labels.numpy().data)
        return total.hexdigest()

    def _with(self, **changed: Any) -> "TensorPart":
        held = {"mean": self.mean, "std": self.std, "rows": self._rows, "classes": self.classes}
        return TensorPart(self._all_images, self._all_labels, **{**held, **changed})


class Order:
    """Which image comes in which batch, and what chance each batch has."""

    def __init__(
        self, count: int, batch_size: int, *, seed: int | None, augment: Sequence[Augment], start: int
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"the batch size must be at least 1, got {batch_size}")
        if start < 0:
            raise UsageError(f"the number of batches to skip must be at least 0, got {start}")
        if augment and seed is None:
            raise UsageError("augmentation needs a seed")
        self.seed = seed
        self.augment = tuple(augment)
        self.batch_size = batch_size
        self.order = torch.arange(count) if seed is None else permutation(count, derive(seed, "order"))
        self.numbers = range(start, batch_count(count, batch_size, training=seed is not None))

    def places(self, number: int) -> Tensor:
        """The places in the part of the images of batch `number`."""
        return self.order[number * self.batch_size : (number + 1) * self.batch_size]

    def finish(self, number: int, images: Tensor, targets: Tensor, facts: Facts) -> Batch:
        """Batch `number` out of normalised images and labels."""
        if self.seed is not None and self.augment:
            generator = torch.Generator().manual_seed(derive(self.seed, "batch", number))
            for change in self.augment:
                images, targets = change(images, targets, generator, facts)
        return Batch(images, targets)


class Scale:
    """(x − mean) / std as one multiplication and one addition."""

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype, device: Device
    ) -> None:
        unit = 255.0 if dtype == torch.uint8 else 1.0
        deviation = torch.tensor(std, dtype=torch.float64)
        self.factor = (1 / (unit * deviation)).float().to(device)[:, None, None]
        self.shift = (-torch.tensor(mean, dtype=torch.float64) / deviation).float().to(device)[:, None, None]

    def __call__(self, images: Tensor) -> Tensor:
        return torch.addcmul(self.shift, images.float(), self.factor)


def batch_count(images: int, batch_size: int, *, training: bool) -> int:
    """How many batches `images` make; in training a last batch of one image does not count."""
    whole, rest = divmod(images, batch_size)
    alone = training and rest == 1 and whole > 0
    return whole + (1 if rest and not alone else 0)


def permutation(count: int, seed: int) -> Tensor:
    """The numbers 0 … count − 1 in an order that depends on `seed` alone."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def places_of(which: Sequence[int] | Tensor | int, count: int) -> Tensor:
    """The places that `subset` means, checked against the `count` images there are.

    Raises:
        UsageError: more images are asked for than there are, or a place does not exist.
    """
    if isinstance(which, int):
        if not 0 < which <= count:
            raise UsageError(f"a subset of 1 to {count} images is possible, got {which}")
        return torch.arange(which) * count // which
    places = torch.as_tensor(which, dtype=torch.int64)
    if len(places) and (int(places.min()) < 0 or int(places.max()) >= count):
        raise UsageError(
            f"places from 0 to {count - 1} exist, got {int(places.min())} to {int(places.max())}"
        )
    return places
