"""The chart of a comparison: what models cost against accuracy, with the front and the answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeGuard

import altair as alt

from kezuri.report import numbers
from kezuri.report.compare import Comparison, Condition, Spread, front
from kezuri.report.labels import Frame, Named, place
from kezuri.report.plots import Chart, over, titled
from kezuri.report.rounds_chart import shows_floor
from kezuri.report.theme import BLUE, GREY, INK, MUTED, VERMILLION, WIDTH

HEIGHT = 380
# With more conditions than this only the front, and what is asked for, is labelled.
MOST_LABELS = 12
LOOKS = {
    "not finished": (GREY, "triangle-up"),
    "beaten": (GREY, "circle"),
    "on the front": (BLUE, "circle"),
    "answer": (VERMILLION, "diamond"),
}
"""What lies below is drawn first."""

Cost = Literal["size", "latency"]


@dataclass(frozen=True)
class Families:
    """Kinds of conditions, told apart by colour instead of by what is on the front.

    Attributes:
        of: each condition's kind, by its name.
        colours: of the kinds, in the order of the legend.
    """

    of: Mapping[str, str]
    colours: Mapping[str, str]


@dataclass(frozen=True)
class _Point:
    condition: Condition
    cost: float
    accuracy: float
    low: float | None
    high: float | None
    kind: str

    @property
    def on_front(self) -> bool:
        return self.kind in ("on the front", "answer")


def pareto_chart(
    comparison: Comparison,
    *,
    cost: Cost = "size",
    families: Families | None = None,
    named: Sequence[str] = (),
    title: str | None = None,
) -> Chart | None:
    """Every condition by cost and accuracy; the front is a line, and labels never cover each other.

    Args:
        comparison: the conditions.
        cost: what is across: bytes or milliseconds.
        families: kinds of conditions, told apart by colour.
        named: conditions that are labelled even off the front.
        title: in place of the comparison's headline.
    """
    unit, scale = _unit(comparison, cost, families)
    points = _points(comparison, cost, scale)
    if not points:
        return None
    x_domain, y_domain, logarithmic = _domains(points)
    unit = f"{unit}, log scale" if logarithmic else unit
    x = alt.X(
        "cost:Q",
        title=f"{cost} ({unit})",
        scale=alt.Scale(type="log" if logarithmic else "linear", domain=x_domain, nice=False),
        axis=alt.Axis(tickCount=7, grid=False, format=",.6~r"),
    )
    y = alt.Y(
        "accuracy:Q",
        title=f"accuracy, {comparison.split} (%)",
        scale=alt.Scale(domain=y_domain, nice=False, zero=False),
    )
    layers = [*_floors(points, y), *_front_line(points, x, y, x_domain[1])]
    layers += _marks(points, families, x, y)
    layers += _labels(points, named, Frame(x_domain, y_domain, logarithmic, WIDTH, HEIGHT), x, y)
    chart = alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)
    several = any(len(p.condition.folders) > 1 for p in points)
    bars = "one standard deviation over seeds" if several else "95 % interval"
    words = f"Accuracy against {cost} of every condition; line: no other is as good in both; bars: {bars}"
    return titled(chart, title or comparison.headline(), words)


def _unit(comparison: Comparison, cost: Cost, families: Families | None) -> tuple[str, float]:
    if cost == "latency":
        return "ms", 1.0
    sizes = sorted(c.size.value for c in comparison.conditions if c.size is not None)
    return numbers.size_unit(sizes[: len(sizes) // 2 + 1] if families else sizes)


def _points(comparison: Comparison, cost: Cost, scale: float) -> list[_Point]:
    """Those that have both, the front marked: of the comparison for sizes, of its own for another cost."""
    points = []
    for c in comparison.conditions:
        spent: Spread | None = getattr(c, cost)
        if c.accuracy is None or spent is None:
            continue
        low, high = c.accuracy.low, c.accuracy.high
        kind = "answer" if c is comparison.best else "on the front" if c.on_front else "beaten"
        points.append(
            _Point(
                c,
                spent.value / scale,
                c.accuracy.value * 100,
                None if low is None else low * 100,
                None if high is None else high * 100,
                kind if c.finished else "not finished",
            )
        )
    if cost == "size":
        return points
    ended = [i for i, point in enumerate(points) if point.kind != "not finished"]
    best = {ended[i] for i in front([(points[i].accuracy, points[i].cost) for i in ended])}
    kinds = {True: "on the front", False: "beaten"}
    return [replace(p, kind=kinds[i in best] if i in ended else p.kind) for i, p in enumerate(points)]


def _domains(points: Sequence[_Point]) -> tuple[list[float], list[float], bool]:
    """Where the axes begin and end; costs a factor of 8 apart or more go on a logarithmic one."""
    costs = [p.cost for p in points]
    ends = [v for p in points for v in (p.low, p.high, p.accuracy) if v is not None]
    ends += [p.condition.floor * 100 for p in points if _shown(p.condition.floor, points)]
    room = max(0.2, (max(ends) - min(ends)) * 0.08)
    y = [max(min(ends) - room, min(0.0, min(p.accuracy for p in points))), min(100.5, max(ends) + room)]
    if min(costs) > 0 and max(costs) / min(costs) >= 8:
        return [min(costs) / 1.5, max(costs) * 1.8], y, True
    return [0, max(costs) * 1.12 or 1], y, False


def _shown(floor: float | None, points: Sequence[_Point]) -> TypeGuard[float]:
    return shows_floor(floor, [p.accuracy / 100 for p in points])


def _floors(points: Sequence[_Point], y: alt.Y) -> list[alt.Chart]:
    """A line for the floor, where all conditions share one."""
    floors = {round(p.condition.floor, 6) for p in points if p.condition.floor is not None}
    if len(floors) != 1 or not _shown(next(iter(floors)), points):
        return []
    percent = floors.pop() * 100
    chart = over([{"accuracy": percent, "words": ["floor", f"{percent:.2f} %"]}])
    words = chart.mark_text(align="left", dx=6, dy=-7, fontSize=12, color=INK)
    return [
        chart.mark_rule(color=INK, strokeDash=[5, 4], strokeWidth=1.2).encode(y=y),
        words.encode(x=alt.value(WIDTH), y=y, text="words:N"),
    ]


def _front_line(points: Sequence[_Point], x: alt.X, y: alt.Y, right: float) -> list[alt.Chart]:
    """What accuracy can be had up to each cost: steps, because between two models there is none."""
    ahead = sorted((p.cost, p.accuracy) for p in points if p.on_front)
    if not ahead:
        return []
    rows = [{"cost": cost, "accuracy": accuracy} for cost, accuracy in [*ahead, (right, ahead[-1][1])]]
    line = over(rows).mark_line(interpolate="step-after", color=BLUE, strokeWidth=1.6, opacity=0.6)
    return [line.encode(x=x, y=y)]


def _marks(points: Sequence[_Point], families: Families | None, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    """What is beaten first, the front over it, the answer last and largest."""
    ranks = list(LOOKS)
    rows = [_row(point, families) for point in sorted(points, key=lambda p: ranks.index(p.kind))]
    looks = {name: colour for name, (colour, _) in reversed(LOOKS.items())}
    colours = looks if families is None else families.colours
    shown = [name for name in colours if any(row["group"] == name for row in rows)]
    color = alt.Color("group:N", scale=alt.Scale(domain=shown, range=[colours[name] for name in shown]))
    kinds = [name for name in looks if any(row["kind"] == name for row in rows)]
    shapes = alt.Scale(domain=kinds, range=[LOOKS[name][1] for name in kinds])
    tip = [
        alt.Tooltip(f"{name}:N")
        for name in ("condition", "accuracy_words", "size_words", "latency_words", "runs", "status")
    ]
    shape = alt.Shape("kind:N", scale=shapes, legend=None) if families else alt.Shape("group:N", scale=shapes)
    chart = over(rows)
    spread = chart.transform_filter("datum.low != null").mark_rule(clip=True, strokeWidth=2, opacity=0.4)
    rest, best = (chart.transform_filter(f"datum.kind {sign} 'answer'") for sign in ("!=", "=="))
    seen = {"x": x, "y": y, "color": color, "shape": shape, "tooltip": tip}
    return [
        spread.encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=color),
        rest.mark_point(filled=True, size=95, opacity=1, stroke="white", strokeWidth=0.8).encode(**seen),
        best.mark_point(filled=True, size=260, opacity=1, stroke="white", strokeWidth=1.5).encode(**seen),
    ]


def _row(point: _Point, families: Families | None) -> dict[str, Any]:
    c = point.condition
    return {
        "condition": c.name,
        "cost": point.cost,
        "accuracy": point.accuracy,
        "low": point.low,
        "high": point.high,
        "kind": point.kind,
        "group": point.kind if families is None else families.of[c.name],
        "accuracy_words": numbers.percent(point.accuracy / 100),
        "size_words": numbers.size(c.size.value if c.size else None),
        "latency_words": numbers.milliseconds(c.latency.value if c.latency else None),
        "runs": len(c.folders),
        "status": c.status,
    }


def _labels(
    points: Sequence[_Point], wanted: Sequence[str], frame: Frame, x: alt.X, y: alt.Y
) -> list[alt.Chart]:
    """Labels beside their points: the answer first, then the front, then others; none where all is taken."""
    ordered = sorted(
        points, key=lambda p: (p.kind != "answer", p.condition.name not in wanted, not p.on_front, p.cost)
    )
    found = place(
        [
            Named(
                p.cost,
                p.accuracy,
                p.low,
                p.high,
                p.on_front,
                p.condition.name
                if p.on_front or p.condition.name in wanted or len(points) <= MOST_LABELS
                else None,
            )
            for p in ordered
        ],
        frame,
    )
    lines = [
        {"cost": one.point[0], "accuracy": one.point[1], "cost2": one.end[0], "accuracy2": one.end[1]}
        for one in found
        if one.end is not None
    ]
    layers: list[alt.Chart] = []
    if lines:
        joined = over(lines).mark_rule(color=MUTED, strokeWidth=0.8)
        layers.append(joined.encode(x=x, y=y, x2="cost2:Q", y2="accuracy2:Q"))
    for align in ("left", "right"):
        rows = [
            {"cost": one.cost, "accuracy": one.accuracy, "words": one.words}
            for one in found
            if one.before == (align == "right")
        ]
        for look in ({"stroke": "white", "strokeWidth": 4, "color": "white"}, {"color": MUTED}):
            words = over(rows).mark_text(align=align, baseline="middle", fontSize=11.5, **look)
            layers += [words.encode(x=x, y=y, text="words:N")] if rows else []
    return layers
