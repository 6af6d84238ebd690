"""Numbers as people read them: 93.58 %, 1.2 MB, 0.84 ms, 3.9×. A value that was not measured is a dash."""

import math
from collections.abc import Sequence

from kezuri.core import ratios

DASH = "–"
MINUS = "−"
PLUS_MINUS = "±"
SIZE_UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))


def known(value: float | None) -> bool:
    """Whether there is a finite number to show."""
    return value is not None and math.isfinite(value)


def significant(value: float | None, digits: int = 3) -> str:
    """The value to `digits` significant digits, never with an exponent from 1e-4 up; 1234 stays 1,234."""
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    # rounded first, so that 0.9996 becomes 1.00 and not 1.000
    rounded = float(f"{value:.{digits - 1}e}")
    places = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{value:,.{places}f}".replace("-", MINUS)


def fixed(value: float | None, places: int) -> str:
    """The value with `places` decimals, so that a column of them lines up."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:,.{places}f}".replace("-", MINUS)


def percent(fraction: float | None, places: int = 2) -> str:
    """A fraction as per cent: 0.9358 → 93.58 %."""
    return f"{fixed(fraction * 100, places)} %" if known(fraction) and fraction is not None else DASH


def points(difference: float | None) -> str:
    """A difference of two fractions in points, with its sign: −0.4 points."""
    if difference is None or not math.isfinite(difference):
        return DASH
    rounded = round(difference * 100, 2)
    if rounded == 0:
        return "±0 points"
    sign = MINUS if rounded < 0 else "+"
    amount = f"{abs(rounded):.2f}".rstrip("0").rstrip(".")
    return f"{sign}{amount} point{'' if amount == '1' else 's'}"


def reduction(before: float | None, after: float | None) -> str:
    """How much less of it there is, in whole per cent with its sign: −83 %."""
    if before is None or after is None or not known(after) or not before or not known(before):
        return DASH
    change = (after / before - 1) * 100
    places = 0 if abs(change) < 99 else 1
    return f"{MINUS if change < 0 else '+'}{abs(change):.{places}f} %"


def size(amount: float | None) -> str:
    """Bytes, decimal: 1_234_567 → 1.23 MB."""
    if amount is None or not math.isfinite(amount):
        return DASH
    unit, scale = size_unit([amount])
    return f"{amount:.0f} B" if unit == "B" else f"{significant(amount / scale)} {unit}"


def size_unit(amounts: Sequence[float | None]) -> tuple[str, float]:
    """The unit that suits the largest of these sizes, and its bytes."""
    largest = max((abs(a) for a in amounts if a is not None and math.isfinite(a)), default=1e6)
    return next(((unit, scale) for unit, scale in SIZE_UNITS if largest >= scale), ("B", 1.0))


def count(amount: float | None) -> str:
    """A count: in full below a million, then 3 digits with M or G."""
    if amount is None or not math.isfinite(amount):
        return DASH
    for unit, scale in (("G", 1e9), ("M", 1e6)):
        if abs(amount) >= scale:
            return f"{significant(amount / scale)} {unit}"
    return f"{amount:,.0f}"


def milliseconds(amount: float | None) -> str:
    """A latency: 0.84 ms."""
    return DASH if not known(amount) else f"{significant(amount)} ms"


def times(ratio: float | None) -> str:
    """A ratio: 3.9×."""
    return DASH if ratio is None or not math.isfinite(ratio) else ratios.times(ratio)


def change(ratio: float | None, better: ratios.Better) -> str:
    """A ratio, above 1 is better, in words: 3.9× smaller, 1.2× slower, the same."""
    return DASH if ratio is None else ratios.change(ratio, better) or DASH


def duration(seconds: float | None) -> str:
    """A time: 4 h 12 min, 2 min 5 s, 38 s."""
    if seconds is None or not math.isfinite(seconds):
        return DASH
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def setting(value: object, *, scale: float = 1.0) -> str:
    """A setting of a recipe: one value, or one a round (30, 30, 10)."""
    if isinstance(value, (list, tuple)):
        shown = [setting(entry, scale=scale) for entry in value]
        return ", ".join(shown if len(shown) <= 6 else [*shown[:4], "…", shown[-1]])
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{round(value * scale, 4):g}" if math.isfinite(value) else DASH
    return DASH if value is None else str(value)
