"""The chart of a comparison: size against accuracy, with the front and the answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log
from typing import Any, TypeGuard

import altair as alt

from kezuri.report import numbers
from kezuri.report.compare import Comparison, Condition
from kezuri.report.plots import Chart, over, titled
from kezuri.report.rounds_chart import shows_floor
from kezuri.report.theme import BLUE, GREY, INK, MUTED, VERMILLION, WIDTH

HEIGHT = 380
LETTER, LINE = 6.0, 15
# With more conditions than this only the front is labelled.
MOST_LABELS = 12

# Left, top, width, height in pixels.
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Point:
    condition: Condition
    size: float
    accuracy: float
    low: float | None
    high: float | None


def pareto_chart(comparison: Comparison) -> Chart | None:
    """Every condition by size and accuracy; the front is a line, and labels never cover each other."""
    sizes = [c.size.value for c in comparison.conditions if c.size is not None]
    unit, scale = numbers.size_unit(sizes)
    points = [point for c in comparison.conditions if (point := _point(c, scale)) is not None]
    if not points:
        return None
    x_domain, y_domain, logarithmic = _domains(points)
    x = alt.X(
        "size:Q",
        title=f"size ({unit})",
        scale=alt.Scale(type="log" if logarithmic else "linear", domain=x_domain, nice=False),
        axis=alt.Axis(tickCount=7, grid=False),
    )
    y = alt.Y(
        "accuracy:Q",
        title=f"accuracy, {comparison.split} (%)",
        scale=alt.Scale(domain=y_domain, nice=False, zero=False),
    )
    layers = [*_floors(points, y, x_domain[1]), *_front_line(points, x, y, x_domain[1])]
    layers += _marks(comparison, points, x, y)
    labels = over(_labels(comparison, points, _Frame(x_domain, y_domain, logarithmic)))
    for look in ({"stroke": "white", "strokeWidth": 4, "color": "white"}, {"color": MUTED}):
        words = labels.mark_text(align="left", baseline="middle", fontSize=11.5, **look)
        layers.append(words.encode(x=x, y=y, text="words:N"))
    chart = alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)
    several = any(len(p.condition.folders) > 1 for p in points)
    bars = "one standard deviation over seeds" if several else "95 % interval"
    return titled(chart, comparison.headline(), f"Accuracy against size of every condition; bars: {bars}")


def _point(condition: Condition, scale: float) -> _Point | None:
    if condition.accuracy is None or condition.size is None:
        return None
    low, high = condition.accuracy.low, condition.accuracy.high
    return _Point(
        condition,
        condition.size.value / scale,
        condition.accuracy.value * 100,
        None if low is None else low * 100,
        None if high is None else high * 100,
    )


def _domains(points: Sequence[_Point]) -> tuple[list[float], list[float], bool]:
    """Where the axes begin and end; sizes a factor of 20 apart or more go on a logarithmic one."""
    sizes = [p.size for p in points]
    ends = [v for p in points for v in (p.low, p.high, p.accuracy) if v is not None]
    ends += [p.condition.floor * 100 for p in points if _shown(p.condition.floor, points)]
    room = max(0.2, (max(ends) - min(ends)) * 0.08)
    y = [min(ends) - room, min(100.5, max(ends) + room)]
    if min(sizes) > 0 and max(sizes) / min(sizes) >= 20:
        return [min(sizes) / 1.5, max(sizes) * 1.8], y, True
    return [0, max(sizes) * 1.12 or 1], y, False


def _shown(floor: float | None, points: Sequence[_Point]) -> TypeGuard[float]:
    return shows_floor(floor, [p.accuracy / 100 for p in points])


def _floors(points: Sequence[_Point], y: alt.Y, right: float) -> list[alt.Chart]:
    """A line for the floor, where all conditions share one."""
    floors = {round(p.condition.floor, 6) for p in points if p.condition.floor is not None}
    if len(floors) != 1 or not _shown(next(iter(floors)), points):
        return []
    percent = floors.pop() * 100
    row = {"accuracy": percent, "size": right, "words": ["floor", f"{percent:.2f} %"]}
    chart = over([row])
    words = chart.mark_text(align="left", dx=6, dy=-7, fontSize=12, color=INK)
    return [
        chart.mark_rule(color=INK, strokeDash=[5, 4], strokeWidth=1.2).encode(y=y),
        words.encode(x=alt.value(WIDTH), y=y, text="words:N"),
    ]


def _front_line(points: Sequence[_Point], x: alt.X, y: alt.Y, right: float) -> list[alt.Chart]:
    """What accuracy can be had up to each size: steps, because between two models there is none."""
    front = sorted((p.size, p.accuracy) for p in points if p.condition.on_front)
    if not front:
        return []
    rows = [{"size": size, "accuracy": accuracy} for size, accuracy in [*front, (right, front[-1][1])]]
    line = over(rows).mark_line(interpolate="step-after", color=BLUE, strokeWidth=1.6, opacity=0.6)
    return [line.encode(x=x, y=y)]


def _marks(comparison: Comparison, points: Sequence[_Point], x: alt.X, y: alt.Y) -> list[alt.Chart]:
    looks = {
        "answer": (VERMILLION, "diamond"),
        "on the front": (BLUE, "circle"),
        "beaten": (GREY, "circle"),
        "not finished": (GREY, "triangle-up"),
    }
    rows = [_row(comparison, point) for point in points]
    names = [name for name in looks if any(row["kind"] == name for row in rows)]
    color = alt.Color("kind:N", scale=alt.Scale(domain=names, range=[looks[n][0] for n in names]))
    shape = alt.Shape("kind:N", scale=alt.Scale(domain=names, range=[looks[n][1] for n in names]))
    tip = [
        alt.Tooltip(f"{name}:N") for name in ("condition", "accuracy_words", "size_words", "runs", "status")
    ]
    chart = over(rows)
    spread = chart.transform_filter("datum.low != null").mark_rule(strokeWidth=2, opacity=0.45)
    marks = chart.mark_point(filled=True, size=95, opacity=1)
    return [
        spread.encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=color),
        marks.encode(x=x, y=y, color=color, shape=shape, tooltip=tip),
    ]


def _row(comparison: Comparison, point: _Point) -> dict[str, Any]:
    c = point.condition
    beaten = "beaten" if c.finished else "not finished"
    kind = "answer" if c is comparison.best else "on the front" if c.on_front else beaten
    return {
        "condition": c.name,
        "size": point.size,
        "accuracy": point.accuracy,
        "low": point.low,
        "high": point.high,
        "kind": kind,
        "accuracy_words": numbers.percent(point.accuracy / 100),
        "size_words": numbers.size(c.size.value if c.size else None),
        "runs": len(c.folders),
        "status": c.status,
    }


@dataclass(frozen=True)
class _Frame:
    """Turns sizes and accuracies into pixels of the chart and back."""

    x: Sequence[float]
    y: Sequence[float]
    logarithmic: bool

    def across(self, size: float) -> float:
        if self.logarithmic:
            return log(size / self.x[0]) / log(self.x[1] / self.x[0]) * WIDTH
        return (size - self.x[0]) / (self.x[1] - self.x[0]) * WIDTH

    def down(self, accuracy: float) -> float:
        return (self.y[1] - accuracy) / (self.y[1] - self.y[0]) * HEIGHT

    def value(self, across: float, down: float) -> tuple[float, float]:
        share = across / WIDTH
        if self.logarithmic:
            size = self.x[0] * exp(share * log(self.x[1] / self.x[0]))
        else:
            size = self.x[0] + share * (self.x[1] - self.x[0])
        return size, self.y[1] - down / HEIGHT * (self.y[1] - self.y[0])


def _labels(comparison: Comparison, points: Sequence[_Point], frame: _Frame) -> list[dict[str, Any]]:
    """Labels beside their points: the answer first, then the front, then others; none where all is taken."""

    def rank(point: _Point) -> tuple[bool, bool, float]:
        return point.condition is not comparison.best, not point.condition.on_front, point.size

    marks: list[Box] = [(frame.across(p.size) - 6, frame.down(p.accuracy) - 6, 12, 12) for p in points]
    level, upright = _lines(points, frame)
    named = [p for p in points if p.condition.on_front or len(points) <= MOST_LABELS]
    rows = []
    for point in sorted(named, key=rank):
        words = point.condition.name if len(point.condition.name) <= 28 else point.condition.name[:27] + "…"
        width = len(words) * LETTER
        x, y = frame.across(point.size), frame.down(point.accuracy)
        spot = _spot(x, y, width, [*marks, *level, *upright]) or _spot(x, y, width, [*marks, *level])
        if spot is not None:
            marks.append((spot[0], spot[1] - LINE / 2, width, LINE))
            size, accuracy = frame.value(*spot)
            rows.append({"size": size, "accuracy": accuracy, "words": words})
    return rows


def _lines(points: Sequence[_Point], frame: _Frame) -> tuple[list[Box], list[Box]]:
    """Where lines run level, which labels never cross, and upright, which they cross only if they must."""
    front = sorted((p for p in points if p.condition.on_front), key=lambda p: (p.size, p.accuracy))
    spots = [(frame.across(p.size), frame.down(p.accuracy)) for p in front]
    level: list[Box] = []
    upright: list[Box] = []
    for (x, y), (right, upper) in pairwise([*spots, *((WIDTH, y) for _, y in spots[-1:])]):
        level.append((x, y - 1, right - x, 2))
        upright.append((right - 1, upper, 2, y - upper))
    for point, (x, _) in zip(front, spots, strict=True):
        if point.low is not None and point.high is not None:
            top = frame.down(point.high)
            upright.append((x - 2, top, 4, frame.down(point.low) - top))
    return level, upright


def _spot(x: float, y: float, width: float, taken: Sequence[Box]) -> tuple[float, float] | None:
    """The left end and the middle of a label near (x, y) that covers nothing taken and stays inside."""
    sides = [(left, y + lift) for lift in (0, -11, 11, -24, 24, -38, 38) for left in (x + 10, x - 10 - width)]
    for left, middle in sides:
        inside = left >= 0 and left + width <= WIDTH and LINE / 2 <= middle <= HEIGHT - LINE / 2
        free = all(
            left + width <= bx or bx + bw <= left or middle + LINE / 2 <= by or by + bh <= middle - LINE / 2
            for bx, by, bw, bh in taken
        )
        if inside and free:
            return left, middle
    return None
