"""How right one is without having learnt anything."""

import math

from torch import Tensor


def chance_accuracy(labels: Tensor) -> tuple[float, float]:
    """The accuracy of always answering the commonest class, and above which a model knows more than that.

    The second is three standard deviations above the first, but below one mistake less than perfect.

    Args:
        labels: (N,) int64.
    """
    chance = float(labels.bincount().max()) / len(labels)
    least = chance + 3 * math.sqrt(chance * (1 - chance) / len(labels))
    return chance, min(least, 1 - 1 / len(labels))
