"""Charts of a run and of a comparison, as Altair objects; `png` and `spec` turn them into files."""

import json
from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import altair as alt
import vl_convert

from kezuri.report import numbers
from kezuri.report.reading import Layer, Round, RunView
from kezuri.report.theme import BLUE, CONFIG, GREY, INK, MUTED, PALE, SKY, VERMILLION, WIDTH

Chart = alt.LayerChart | alt.VConcatChart | alt.HConcatChart | alt.Chart
WORST_CLASSES = 30
TITLE_LENGTH = 80  # characters of a finding that fit above a chart
# A long name keeps its end, which tells layers apart.
SHORT_LABEL = "length(datum.label) > 28 ? '…' + slice(datum.label, -27) : datum.label"
ROUNDS_WORDS = "Accuracy (bars: 95 % interval) and file size after each round of cutting and retraining"


def spec(chart: Chart) -> dict[str, Any]:
    """The chart as a Vega-Lite specification with its data inside; it names no address."""
    plain: dict[str, Any] = json.loads(chart.to_json(validate=True))
    plain.pop("$schema", None)
    return plain


def png(chart: Chart) -> bytes:
    """The chart as a PNG at twice its size; nothing is fetched."""
    image = vl_convert.vegalite_to_png(spec(chart), scale=2)
    if not isinstance(image, bytes):
        raise TypeError(f"vl-convert answered {type(image).__name__} instead of bytes")
    return image


def rounds_chart(run: RunView) -> Chart | None:
    """Accuracy and size after every round, with the floor and the attempts that were rolled back."""
    if not run.rounds:
        return None
    last = max(entry.round for entry in run.rounds)
    axis = alt.Axis(values=list(range(last + 1)), format="d", grid=False, title="round (0 = dense)")
    bare = alt.Axis(values=list(range(last + 1)), labels=False, ticks=False, grid=False, title=None)
    margin = max(0.15, last * 0.04)
    scale = alt.Scale(domain=[-margin, max(last, 1) + margin], nice=False, zero=False)
    upper = _accuracy_panel(run, alt.X("round:Q", axis=bare, scale=scale))
    lower = _size_panel(run.rounds, alt.X("round:Q", axis=axis, scale=scale))
    panels = alt.vconcat(upper, lower, spacing=18).resolve_scale(color="independent", shape="independent")
    return titled(panels, finding(run), ROUNDS_WORDS)


def finding(run: RunView) -> str:
    """What the run found, in a few words: Parameters −83 % at −0.4 points."""
    dense, final = run.dense("params"), run.final("params")
    before = run.dense("accuracy", split=run.split)
    after = run.final("accuracy", split=run.split)
    if dense is None or final is None:
        return "No round has been accepted yet"
    if dense.value == final.value:
        return "Nothing was cut"
    change = numbers.points(after.value - before.value) if before and after else "unknown accuracy"
    return f"Parameters {numbers.reduction(dense.value, final.value)} at {change}"


def _accuracy_panel(run: RunView, x: alt.X) -> Any:
    rows = [
        {
            "round": entry.round,
            "accuracy": found.value * 100,
            "low": None if found.low is None else found.low * 100,
            "high": None if found.high is None else found.high * 100,
            "series": series if entry.stands else "rolled back",
            "why": entry.why,
        }
        for entry in run.rounds
        for series, found in (("validation", entry.validation), ("train", entry.train))
        if found is not None and (entry.stands or series == "validation")
    ]
    looks = {
        "validation": (BLUE, "circle"),
        "train": (SKY, "square"),
        "rolled back": (VERMILLION, "cross"),
    }
    names = [name for name in looks if any(row["series"] == name for row in rows)]
    colors, shapes = [looks[name][0] for name in names], [looks[name][1] for name in names]
    y = alt.Y("accuracy:Q", title="accuracy (%)", scale=alt.Scale(zero=False, nice=True, padding=8))
    color = alt.Color("series:N", scale=alt.Scale(domain=names, range=colors))
    shape = alt.Shape("series:N", scale=alt.Scale(domain=names, range=shapes))
    tip = [
        alt.Tooltip("series:N"),
        alt.Tooltip("round:Q"),
        alt.Tooltip("accuracy:Q", title="accuracy (%)", format=".2f"),
        alt.Tooltip("why:N"),
    ]
    chart = over(rows)
    standing = chart.transform_filter("datum.series != 'rolled back'")
    spread = chart.transform_filter("datum.series == 'validation' && datum.low != null")
    layers: list[alt.Chart] = [
        spread.mark_rule(color=BLUE, opacity=0.35, strokeWidth=5).encode(x=x, y=alt.Y("low:Q"), y2="high:Q"),
        standing.mark_line(strokeWidth=2).encode(x=x, y=y, color=color),
        chart.mark_point(filled=True, size=70, opacity=1).encode(
            x=x, y=y, color=color, shape=shape, tooltip=tip
        ),
    ]
    if run.floor is not None:
        layers += _floor(run.floor * 100)
    return alt.layer(*layers).properties(width=WIDTH, height=230)


def _floor(percent: float) -> list[alt.Chart]:
    words = ["floor", f"{percent:.2f} %"]
    chart = over([{"floor": percent, "words": words}])
    y = alt.Y("floor:Q", title="accuracy (%)")
    return [
        chart.mark_rule(color=INK, strokeDash=[5, 4], strokeWidth=1.2).encode(y=y),
        chart.mark_text(align="left", baseline="middle", dx=6, dy=-7, fontSize=12, color=INK).encode(
            x=alt.value(WIDTH), y=y, text="words:N"
        ),
    ]


def _size_panel(rounds: Sequence[Round], x: alt.X) -> Any:
    unit, scale = numbers.size_unit([entry.size for entry in rounds])
    rows = [
        {
            "round": entry.round,
            "size": entry.size / scale,
            "words": numbers.significant(entry.size / scale, 3 if len(rounds) < 9 else 2),
            "series": "kept" if entry.stands else "rolled back",
            "why": entry.why,
        }
        for entry in rounds
        if entry.size is not None
    ]
    highest = max((entry.size / scale for entry in rounds if entry.size is not None), default=1.0)
    y = alt.Y("size:Q", title=f"size ({unit})", scale=alt.Scale(domain=[0, highest * 1.15]))
    tip = [alt.Tooltip("round:Q"), alt.Tooltip("words:N", title=f"size ({unit})"), alt.Tooltip("why:N")]
    chart = over(rows)
    kept = chart.transform_filter("datum.series == 'kept'")
    lost = chart.transform_filter("datum.series != 'kept'")
    return alt.layer(
        kept.mark_line(strokeWidth=2, color=BLUE).encode(x=x, y=y),
        kept.mark_point(filled=True, size=70, opacity=1, color=BLUE).encode(x=x, y=y, tooltip=tip),
        lost.mark_point(filled=True, size=70, opacity=1, color=VERMILLION, shape="cross").encode(
            x=x, y=y, tooltip=tip
        ),
        kept.mark_text(dx=9, dy=-11, fontSize=11.5, color=MUTED).encode(x=x, y=y, text="words:N"),
    ).properties(width=WIDTH, height=150)


def layers_chart(layers: Sequence[Layer]) -> Chart | None:
    """Channels of every layer before and after; what could not be cut is grey and says why."""
    if not layers:
        return None
    names = ["kept", "cut away", "blocked"]
    rows = [row for layer in layers for row in _bars(layer)]
    tight = len(layers) > 30
    y = alt.Y(
        "layer:N",
        sort=[layer.name for layer in layers],
        title=None,
        axis=alt.Axis(
            labelExpr=SHORT_LABEL,
            labelLimit=210,
            labelFontSize=10.5 if tight else 12,
            ticks=False,
            domain=False,
        ),
        scale=alt.Scale(paddingInner=0.25, paddingOuter=0.2),
    )
    color = alt.Color("part:N", scale=alt.Scale(domain=names, range=[BLUE, PALE, GREY]))
    tip = [
        alt.Tooltip("layer:N"),
        alt.Tooltip("before:Q"),
        alt.Tooltip("after:Q"),
        alt.Tooltip("state:N"),
        alt.Tooltip("reason:N"),
    ]
    chart = over(rows)
    bars = chart.mark_bar().encode(
        x=alt.X("from:Q", title="channels", axis=alt.Axis(tickMinStep=1, tickCount=8)),
        x2="to:Q",
        y=y,
        color=color,
        tooltip=tip,
    )
    words = chart.transform_filter("datum.words != ''").mark_text(
        align="left", dx=5, fontSize=10.5 if tight else 11.5, color=MUTED
    )
    labels = words.encode(x=alt.X("before:Q"), y=y, text="words:N")
    sized = alt.layer(bars, labels).properties(width=WIDTH - 120, height=alt.Step(15 if tight else 20))
    return titled(sized, _layers_finding(layers), "Channels per layer, before and after")


def _bars(layer: Layer) -> list[dict[str, Any]]:
    said = {
        "layer": layer.name,
        "before": layer.before,
        "after": layer.after,
        "state": layer.state,
        "reason": layer.reason or "–",
    }
    if layer.state == "blocked":
        return [
            {**said, "part": "blocked", "from": 0, "to": layer.before, "words": f"{layer.before} blocked"}
        ]
    words = f"{layer.before} → {layer.after}" if layer.after < layer.before else f"{layer.before}"
    kept = {**said, "part": "kept", "from": 0, "to": layer.after, "words": words}
    cut = {**said, "part": "cut away", "from": layer.after, "to": layer.before, "words": ""}
    return [kept, cut] if layer.after < layer.before else [kept]


def _layers_finding(layers: Sequence[Layer]) -> str:
    cut = sum(layer.state == "cut" for layer in layers)
    blocked = sum(layer.state == "blocked" for layer in layers)
    before, after = sum(layer.before for layer in layers), sum(layer.after for layer in layers)
    tail = f", {blocked} blocked" if blocked else ""
    return f"{cut} of {len(layers)} layers cut{tail}: {before:,} → {after:,} channels"


def damage_chart(damage: Sequence[tuple[str, float]]) -> Chart | None:
    """Accuracy each class lost, the worst first; what a class gained goes to the left."""
    if not damage:
        return None
    shown = damage[:WORST_CLASSES]
    lost = [points * 100 for _, points in shown]
    rows = [
        {"class": name, "lost": amount, "words": _signed(amount)}
        for (name, _), amount in zip(shown, lost, strict=True)
    ]
    y = alt.Y(
        "class:N",
        sort=[name for name, _ in shown],
        title=None,
        axis=alt.Axis(labelExpr=SHORT_LABEL, labelLimit=210, ticks=False, domain=False, offset=6),
        scale=alt.Scale(paddingInner=0.3),
    )
    room = max(0.5, *map(abs, lost)) * 0.15
    domain = [min(0.0, min(lost) - room) if min(lost) < 0 else 0.0, max(0.0, *lost) + room]
    x = alt.X(
        "lost:Q",
        title="accuracy lost (points)",
        scale=alt.Scale(domain=domain, nice=False),
        axis=alt.Axis(tickCount=8),
    )
    chart = over(rows)
    color = alt.condition("datum.lost > 0", alt.value(VERMILLION), alt.value(BLUE))
    tip = [alt.Tooltip("class:N"), alt.Tooltip("words:N", title="lost (points)")]
    left, right = (chart.transform_filter(f"datum.lost {sign} 0") for sign in ("<", ">="))
    sized = alt.layer(
        chart.mark_bar().encode(x=x, y=y, color=color, tooltip=tip),
        right.mark_text(align="left", dx=5, fontSize=11.5, color=MUTED).encode(x=x, y=y, text="words:N"),
        left.mark_text(align="right", dx=-5, fontSize=11.5, color=MUTED).encode(x=x, y=y, text="words:N"),
        over([{"zero": 0}]).mark_rule(color=GREY).encode(x=alt.X("zero:Q")),
    ).properties(width=WIDTH - 120, height=alt.Step(22))
    return titled(sized, _damage_finding(damage), _damage_words(len(damage)))


def _signed(amount: float) -> str:
    return "0.0" if round(amount, 1) == 0 else f"{amount:+.1f}".replace("-", numbers.MINUS)


def _damage_words(classes: int) -> str:
    start = "Accuracy lost by each class, dense to compressed"
    return start if classes <= WORST_CLASSES else f"{start}; the {WORST_CLASSES} hit hardest of {classes}"


def _damage_finding(damage: Sequence[tuple[str, float]]) -> str:
    name, lost = damage[0]
    name = name if len(name) <= 28 else name[:27] + "…"
    if lost <= 0:
        return "No class lost accuracy"
    return f"{name} loses most: {lost * 100:.1f} points"


def over(rows: Sequence[dict[str, Any]]) -> alt.Chart:
    """A chart of rows that travel inside its specification."""
    data = alt.Data(values=list(rows))  # type: ignore[no-untyped-call]
    return alt.Chart(data)


def titled(chart: Any, title: str, subtitle: str) -> Chart:
    """The chart with the finding above it, in the look all charts share."""
    lines = wrap(title, TITLE_LENGTH)
    text = title if len(lines) < 2 else lines
    done: Chart = chart.properties(title=alt.TitleParams(text, subtitle=subtitle)).configure(**CONFIG)
    return done
