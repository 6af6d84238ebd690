"""Accuracy with the spread that the number of images allows."""

from math import sqrt

from kezuri.core.errors import UsageError
from kezuri.core.measurement import Measurement

Z95 = 1.959964


def wilson(correct: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a fraction, `correct` of `n` (Wilson, 1927).

    Raises:
        UsageError: nothing was counted, or more were correct than counted.
    """
    if n < 1 or not 0 <= correct <= n:
        raise UsageError(f"an accuracy needs 0 to n correct of n ≥ 1 images, got {correct} of {n}")
    share = correct / n
    middle = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2)) / (1 + Z95**2 / n)
    # the ends belong to the interval exactly; rounding must not lose them
    low = 0.0 if correct == 0 else middle - half
    high = 1.0 if correct == n else middle + half
    return low, high


def accuracy_measurement(correct: int, total: int, *, split: str) -> Measurement:
    """Accuracy as a fraction, with its Wilson interval; `split` is the part of the data it was counted on.

    Raises:
        UsageError: as `wilson`.
    """
    low, high = wilson(correct, total)
    return Measurement(
        "accuracy",
        correct / total,
        "fraction",
        low=low,
        high=high,
        samples=total,
        conditions={"split": split},
    )
