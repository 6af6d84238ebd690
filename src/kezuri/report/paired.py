"""Two methods on the same draws: how far apart they are, and whether chance alone would do as much."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, sin, sqrt, tan
from statistics import fmean, stdev

import numpy as np

from kezuri.core.errors import UsageError

MOST_EXACT = 20
"""Pairs up to which every way to flip their signs is looked at: a million."""

FLIPS = 100_000
"""Ways that are drawn where there are more pairs."""


@dataclass(frozen=True)
class Paired:
    """The differences of pairs, first less second.

    Attributes:
        mean: of the differences.
        low, high: 95 % confidence interval of their mean; None for a single pair.
        greater: one-sided p-value, of the first being no better than the second.
        different: two-sided p-value, of the two being equally good.
        pairs: how many there are.
        exact: whether every flip of the signs was counted, or some were drawn.
    """

    mean: float
    low: float | None
    high: float | None
    greater: float
    different: float
    pairs: int
    exact: bool


def paired(differences: Sequence[float]) -> Paired:
    """What the differences of paired measurements say.

    The interval is Student's (1908), for differences that are about normal. The p-values are of the sign-flip
    test on their mean (Fisher, "The Design of Experiments", 1935, section 21), which assumes no shape: were
    the two equally good, each difference would as well have had the other sign.

    Args:
        differences: one a pair, at least one; up to 20 pairs the test is exact.

    Raises:
        UsageError: there are none.
    """
    count = len(differences)
    if count == 0:
        raise UsageError("a paired comparison needs at least one pair, got none")
    mean = fmean(differences)
    reach = student(count - 1) * stdev(differences) / sqrt(count) if count > 1 else None
    exact = count <= MOST_EXACT
    sums = _every_flip(differences) if exact else _some_flips(differences)
    # sums of the same numbers in another order differ in the last digits
    least = count * mean - 1e-9 * sum(map(abs, differences))
    most = abs(count * mean) - 1e-9 * sum(map(abs, differences))
    reached = [int((sums >= least).sum()), int((abs(sums) >= most).sum())]
    greater, different = (
        hits / len(sums) if exact else (hits + 1) / (len(sums) + 1)  # the signs as measured are one more way
        for hits in reached
    )
    return Paired(
        mean=mean,
        low=None if reach is None else mean - reach,
        high=None if reach is None else mean + reach,
        greater=greater,
        different=different,
        pairs=count,
        exact=exact,
    )


def student(freedom: int, within: float = 0.95) -> float:
    """How many standard errors around a mean hold it with this confidence, by Student's t distribution.

    Args:
        freedom: degrees of freedom, 1 or more.
        within: the confidence, in (0, 1).
    """
    low, high = 0.0, pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, freedom) < within else (low, middle)
    return sqrt(freedom) * tan((low + high) / 2)


def _inside(angle: float, freedom: int) -> float:
    """The probability that |t| is below √freedom · tan(angle): Abramowitz and Stegun (1964), 26.7.3 and 4."""
    square, odd = cos(angle) ** 2, freedom % 2
    term, total = (cos(angle), 0.0) if odd else (1.0, 0.0)
    for number in range(odd, freedom - 1, 2):
        total += term
        term *= square * (number + 1) / (number + 2)
    if odd:
        return (angle + sin(angle) * total) * 2 / pi
    return sin(angle) * total


def _every_flip(differences: Sequence[float]) -> np.ndarray:
    """The sum under every choice of signs."""
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate((sums + difference, sums - difference))
    return sums


def _some_flips(differences: Sequence[float]) -> np.ndarray:
    """The sum under some choices of signs, the same ones whenever it is asked."""
    signs = np.random.default_rng(0).integers(0, 2, (FLIPS, len(differences)), dtype=np.int8) * 2 - 1
    return signs @ np.asarray(differences, dtype=np.float64)
