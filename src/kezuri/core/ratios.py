"""Ratios in words that cannot be misread."""

import math
from typing import Literal

Better = Literal["smaller", "faster", "more"]


def times(ratio: float) -> str:
    """A ratio: 3.9×."""
    return f"{ratio:.0f}×" if ratio >= 100 else f"{ratio:.1f}×" if ratio >= 1.05 else f"{ratio:.2f}×"


def change(ratio: float, better: Better) -> str:
    """What a ratio above 1 makes better: 3.9× smaller, 1.2× slower, the same; empty where there is none."""
    if not math.isfinite(ratio) or ratio <= 0:
        return ""
    worse = {"smaller": "larger", "faster": "slower", "more": "less"}[better]
    if 0.995 < ratio < 1.005:
        return "the same"
    return f"{times(ratio)} {better}" if ratio > 1 else f"{times(1 / ratio)} {worse}"
