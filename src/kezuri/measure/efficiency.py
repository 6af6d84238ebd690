"""What accuracy a megabyte buys."""

from kezuri.core.errors import UsageError
from kezuri.core.measurement import Measurement


def efficiency(accuracy: float, size: float) -> Measurement:
    """Accuracy in percent for each megabyte of file.

    Args:
        accuracy: a fraction in [0, 1].
        size: in bytes; a megabyte is 1,000,000 of them.

    Raises:
        UsageError: accuracy is not a fraction, or size is not above 0.
    """
    if not 0 <= accuracy <= 1 or size <= 0:
        raise UsageError(f"needs an accuracy in [0, 1] and a size above 0, got {accuracy} and {size}")
    return Measurement("efficiency", 100 * accuracy / (size / 1e6), "%/MB")
