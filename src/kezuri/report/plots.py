"""Charts of a run and of a comparison, as Altair objects; `png` and `spec` turn them into files."""

import json
from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import altair as alt
import vl_convert

from kezuri.report import numbers
from kezuri.report.reading import Layer, RunView
from kezuri.report.theme import BLUE, CONFIG, GREY, MUTED, PALE, VERMILLION, WIDTH

Chart = alt.LayerChart | alt.VConcatChart | alt.HConcatChart | alt.Chart
WORST_CLASSES = 30
UNTOUCHED = 1.02  # what a fold of norms changes is no finding
TITLE_LENGTH = 80  # characters of a finding that fit above a chart
# A long name keeps its end, which tells layers apart.
SHORT_LABEL = "length(datum.label) > 28 ? '…' + slice(datum.label, -27) : datum.label"


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


def finding(run: RunView) -> str:
    """What the run found, in a few words: Parameters −83 % at −0.4 points."""
    dense, final = run.dense("params"), run.final("params")
    before = run.dense("accuracy", split=run.split)
    after = run.final("accuracy", split=run.split)
    if dense is None or final is None:
        return "No round has been accepted yet"
    change = numbers.points(after.value - before.value) if before and after else "unknown accuracy"
    told = ", ".join(_changes(run))
    return f"{told[0].upper()}{told[1:]} at {change}" if told else "Nothing was cut"


def _changes(run: RunView) -> list[str]:
    """What is less than it was. The file counts where it shrank by clearly more than its parameters."""
    dense, final, zeros = run.dense("params"), run.final("params"), run.final("sparsity", of="weights")
    cut, smaller = _ratio(run, "params"), _ratio(run, "size", format=run.size_format)
    told = []
    if dense and final and not 1 / UNTOUCHED <= cut <= UNTOUCHED:
        told.append(f"parameters {numbers.reduction(dense.value, final.value)}")
    if zeros and zeros.value:
        told.append(f"{numbers.percent(zeros.value, 1)} of the weights zero")
    if smaller > UNTOUCHED * (1.4 * cut if told else 1.0):
        told.append(f"file {numbers.change(smaller, 'smaller')}")
    if len(told) == 1 and told[0].startswith("file"):
        speed = numbers.change(_ratio(run, "latency", threads=1), "faster")
        told += [speed] if speed != "the same" else []
    return told


def _ratio(run: RunView, metric: str, **conditions: Any) -> float:
    """How many times less the compressed model has of it; 1 where that was not measured."""
    dense, final = run.dense(metric, **conditions), run.final(metric, **conditions)
    return dense.value / final.value if dense and final and final.value else 1.0


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


def titled(chart: Any, title: str, subtitle: str | list[str]) -> Chart:
    """The chart with the finding above it, in the look all charts share."""
    lines = wrap(title, TITLE_LENGTH)
    text = title if len(lines) < 2 else lines
    done: Chart = chart.properties(title=alt.TitleParams(text, subtitle=subtitle)).configure(**CONFIG)
    return done
