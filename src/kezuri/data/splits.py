"""Setting some of the data aside, with every class in its share."""

import torch
from torch import Tensor

from kezuri.core.errors import DataError, UsageError
from kezuri.core.seeds import derive
from kezuri.data.parts import permutation

SHARES = {"train": 0.1, "test": 0.5}
"""The fraction that is held out where no number is given, by where it is taken from."""


def set_aside(labels: Tensor, share: int | float, *, seed: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Splits places into those kept and those set aside, each class by the same fraction.

    Args:
        labels: (N,) int64.
        share: a fraction in (0, 1), or a number of images.
        seed: which images; the same seed sets the same ones aside.
        purpose: `"validation"` or `"test"`, for the seed and the messages.

    Returns:
        places kept and places set aside, each in ascending order. Counts are exact; of each class, one image
        at least is kept.

    Raises:
        UsageError: the share is not between 0 and 1, nor a count.
        DataError: so many would be set aside that a class has nothing left, or none would be.
    """
    total = len(labels)
    if isinstance(share, bool) or (isinstance(share, float) and not 0 < share < 1) or share <= 0:
        raise UsageError(f"the {purpose} share is a fraction in (0, 1) or a number of images, got {share!r}")
    wanted = share if isinstance(share, int) else round(share * total)
    counts = torch.bincount(labels)
    room = (counts - 1).clamp(min=0)
    if not 0 < wanted <= int(room.sum()):
        raise DataError(
            f"{wanted} of {total} images cannot be set aside for {purpose}: at least one must be, and one "
            f"image of each of the {int((counts > 0).sum())} classes must stay"
        )
    aside = torch.zeros(total, dtype=torch.bool)
    for label, take in enumerate(_apportion(counts, room, wanted)):
        of_class = (labels == label).nonzero().squeeze(1)
        order = permutation(len(of_class), derive(seed, purpose, label))
        aside[of_class[order[:take]]] = True
    return (~aside).nonzero().squeeze(1), aside.nonzero().squeeze(1)


def _apportion(counts: Tensor, room: Tensor, wanted: int) -> list[int]:
    """`wanted` images over the classes by size: whole shares first, then the largest remainders."""
    exact = counts.double() * wanted / int(counts.sum())
    take = torch.minimum(exact.long(), room)
    while int(take.sum()) < wanted:
        behind = (exact - take).masked_fill(take >= room, -torch.inf)
        ranked = behind.argsort(descending=True, stable=True)
        missing = wanted - int(take.sum())
        free = ranked[: min(missing, int((take < room).sum()))]
        take[free] += 1
    return [int(number) for number in take]


def few_of_each(labels: Tensor, count: int, *, classes: int, seed: int) -> Tensor:
    """Places of `count` images of every class, drawn by the seed alone, in ascending order.

    Args:
        labels: (N,) int64.
        count: images of each class.
        classes: how many there are.
        seed: which images; of a class, more images include those that fewer would.

    Raises:
        UsageError: the count is below 1.
        DataError: a class has fewer images.
    """
    if count < 1:
        raise UsageError(f"at least 1 image of each class is needed, got {count}")
    found = []
    for label in range(classes):
        of_class = (labels == label).nonzero().squeeze(1)
        if len(of_class) < count:
            raise DataError(f"class {label} has {len(of_class)} images, {count} are asked for")
        found.append(of_class[permutation(len(of_class), derive(seed, "few", label))[:count]])
    return torch.cat(found).sort().values
