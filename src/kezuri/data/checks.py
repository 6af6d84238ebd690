"""What images and labels must be, said with the item that is not."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kezuri.core.errors import DataError


def check_labels(labels: Tensor, classes: int | None, what: str) -> int:
    """How many classes there are, once the labels are known to fit.

    Raises:
        DataError: a label is outside 0 … classes − 1, or there is only one class.
    """
    count = classes if classes is not None else int(labels.max()) + 1
    wrong = ((labels < 0) | (labels >= count)).nonzero()
    if len(wrong):
        place = int(wrong[0])
        raise DataError(
            f"item {place} of the {what} has label {int(labels[place])}, "
            f"{count} classes allow 0 to {count - 1}"
        )
    if count < 2:
        raise DataError(f"the {what} has {count} class; at least 2 are needed to tell images apart")
    return count


def check_image_type(image: Tensor, name: str) -> None:
    """DataError unless the images are uint8 or floating point."""
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise DataError(f"the images of {name} must be uint8 (0 to 255) or float, got {image.dtype}")


def whole_label(label: object, name: str) -> int:
    """The label as an int; DataError when it is a float, a bool or anything else."""
    if isinstance(label, Tensor | np.ndarray | np.generic) and getattr(label, "ndim", 0) == 0:
        label = label.item()
    if isinstance(label, bool) or not isinstance(label, int):
        raise DataError(f"the label of {name} must be a whole number, got {label!r} ({type(label).__name__})")
    return label


def check_finite(images: Tensor, places: Sequence[int], what: str) -> None:
    """DataError naming the first of the items at `places` whose image holds NaN or inf."""
    if not images.is_floating_point():
        return
    wrong = (~torch.isfinite(images).flatten(1).all(1)).nonzero()
    if len(wrong):
        place = places[int(wrong[0])]
        raise DataError(f"item {place} of the {what} holds values that are not finite (NaN or inf)")
