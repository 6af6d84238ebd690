"""What compression did that the mean accuracy hides: answers that flipped, classes that lost."""

from collections.abc import Sequence

from torch import Tensor

from kezuri.core.errors import ShapeError
from kezuri.core.measurement import Measurement
from kezuri.measure.accuracy import wilson


def damage(
    labels: Tensor, before_predictions: Tensor, after_predictions: Tensor, classes: Sequence[str]
) -> list[Measurement]:
    """Compares the answers of two models on the same images.

    Args:
        labels: (N,) int64, the truth.
        before_predictions, after_predictions: (N,) int64, answers of the dense and the compressed model.
        classes: their names, in the order of the labels.

    Returns:
        first `flipped`, the fraction of images with another answer than before; then for each class that
        has images `class_damage`, the fraction of them lost (accuracy before less accuracy after, negative
        for a gain), the worst hit first, with the class in the condition `class_name`.

    Raises:
        ShapeError: the three differ in length, or are empty.
    """
    if not len(labels) == len(before_predictions) == len(after_predictions) > 0:
        lengths = [len(labels), len(before_predictions), len(after_predictions)]
        raise ShapeError(f"labels and predictions must be of one length above 0, got {lengths}")
    flips = int((before_predictions != after_predictions).sum())
    low, high = wilson(flips, len(labels))
    lost = (before_predictions == labels).long() - (after_predictions == labels).long()
    rows = []
    for index, name in enumerate(classes):
        images = lost[labels == index]
        if len(images):
            share = int(images.sum()) / len(images)
            rows.append(
                Measurement(
                    "class_damage", share, "fraction", samples=len(images), conditions={"class_name": name}
                )
            )
    flipped = Measurement("flipped", flips / len(labels), "fraction", low=low, high=high, samples=len(labels))
    return [flipped, *sorted(rows, key=lambda row: -row.value)]
