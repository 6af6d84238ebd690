"""The chart of an allocation of bits and sparsity: what is lost against what the model costs."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from kezuri.core.errors import UsageError
from kezuri.report import numbers
from kezuri.report.plots import Chart, over, titled
from kezuri.report.theme import BLUE, GREEN, GREY, MUTED, SKY, VERMILLION, WIDTH

HEIGHT = 340
FLOATS = 32
TICKS = (0, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
LINEAR = 0.01  # below this loss the axis is nearly linear, above it nearly logarithmic
FAR = 8  # costs that differ by more go on a logarithmic axis
WORDS = "Summed increase of the calibration loss, each layer measured alone"
NAMES = {"size": "Size", "macs": "MACs", "latency": "Latency"}
THOUSANDTHS = 0.003  # losses that stay below are told in thousandths
ALIKE = {"8 bits": "all in integers", "32 bits": "all in floats"}
LOOKS = {
    "chosen": (VERMILLION, "diamond"),
    "timed as a whole": (GREEN, "triangle-up"),
    "layer by layer": (BLUE, "circle"),
    "all layers alike": (GREY, "square"),
}


def allocation_chart(content: Mapping[str, Any]) -> Chart:
    """The front of all choices, the choices that treat all layers alike, and the chosen one.

    Args:
        content: what `kezuri.quantization.bits.front_to_json` gives: metric, front, uniform, chosen; `timed`
            where choices were timed as a whole.

    Raises:
        UsageError: there is no point to draw.
    """
    metric = content["metric"]
    points = [("layer by layer", point) for point in content["front"]]
    points += [("all layers alike", _named(metric, point)) for point in content["uniform"]]
    points += [("timed as a whole", point) for point in content.get("timed", ())]
    points += [("chosen", content["chosen"])] if content["chosen"] is not None else []
    if not points:
        raise UsageError("there is no choice of bits to draw")
    title, scale = _axis(metric, [point[metric] for _, point in points])
    small = max(point["loss"] for _, point in points) < THOUSANDTHS
    rows = [
        {
            "cost": point[metric] / scale,
            "loss": point["loss"] * (1000 if small else 1),
            "kind": kind,
            "name": point.get("name", ""),
            "words": "" if "sparse" in point.get("name", "") else point.get("name", ""),  # else they overlap
            "loss_words": numbers.significant(point["loss"]),
        }
        for kind, point in points
    ]
    shown = [kind for kind in LOOKS if any(row["kind"] == kind for row in rows)]
    x = alt.X(
        "cost:Q", title=title, scale=_scale(rows), axis=alt.Axis(tickCount=7, grid=False, format=",.6~r")
    )
    y = alt.Y(
        "loss:Q",
        title="loss increase (thousandths of a nat)" if small else "loss increase (nats)",
        scale=alt.Scale(nice=False, padding=14)
        if small
        else alt.Scale(type="symlog", constant=LINEAR, nice=False, padding=14),
        axis=alt.Axis(tickCount=6) if small else alt.Axis(values=list(TICKS), format=",.6~r"),
    )
    panel = alt.layer(*_layers(rows, shown, x, y)).properties(width=WIDTH, height=HEIGHT)
    return titled(panel, _finding(content), WORDS)


def _layers(rows: Sequence[dict[str, Any]], shown: Sequence[str], x: alt.X, y: alt.Y) -> list[alt.Chart]:
    color = alt.Color("kind:N", scale=alt.Scale(domain=shown, range=[LOOKS[kind][0] for kind in shown]))
    shape = alt.Shape("kind:N", scale=alt.Scale(domain=shown, range=[LOOKS[kind][1] for kind in shown]))
    tip = [
        alt.Tooltip("kind:N"),
        alt.Tooltip("name:N"),
        alt.Tooltip("cost:Q", format=",.3~r"),
        alt.Tooltip("loss_words:N", title="loss increase"),
    ]
    chart = over(rows)
    front = chart.transform_filter("datum.kind == 'layer by layer'")
    marked = chart.transform_filter("datum.kind != 'layer by layer'")
    named = chart.transform_filter("datum.words != ''")
    return [
        front.mark_line(color=SKY, strokeWidth=1.5, interpolate="step-after").encode(x=x, y=y),
        front.mark_point(filled=True, size=18, opacity=1).encode(
            x=x, y=y, color=color, shape=shape, tooltip=tip
        ),
        marked.mark_point(filled=True, size=95, opacity=1).encode(
            x=x, y=y, color=color, shape=shape, tooltip=tip
        ),
        named.mark_text(align="left", dx=9, dy=-9, fontSize=11.5, color=MUTED).encode(
            x=x, y=y, text="words:N"
        ),
    ]


def _scale(rows: Sequence[Mapping[str, Any]]) -> alt.Scale:
    costs = [row["cost"] for row in rows]
    if min(costs) > 0 and max(costs) >= FAR * min(costs):
        return alt.Scale(type="log", domain=[min(costs) / 1.2, max(costs) * 1.3], nice=False)
    return alt.Scale(domain=[0, max(costs) * 1.08 or 1], nice=False)


def _axis(metric: str, values: Sequence[float]) -> tuple[str, float]:
    """The title of the cost axis, and what its values are divided by."""
    if metric == "size":
        unit, scale = numbers.size_unit(values)
        return f"size ({unit})", scale
    if metric == "macs":
        unit, scale = next(((u, s) for u, s in (("G", 1e9), ("M", 1e6)) if max(values) >= s), ("", 1.0))
        return f"MACs ({unit})" if unit else "MACs", scale
    return "latency (ms)", 1.0


def _named(metric: str, point: Mapping[str, Any]) -> Mapping[str, Any]:
    """Under a budget of time layers are in integers or in floats, whatever bits these have."""
    return point if metric != "latency" else {**point, "name": ALIKE.get(point["name"], point["name"])}


def _finding(content: Mapping[str, Any]) -> str:
    """What choosing layer by layer gains over the smallest uniform choice that loses no more."""
    metric, chosen = content["metric"], content["chosen"]
    if metric == "latency" and chosen is not None and "whole" in content:
        options = chosen["options"].values()
        floats = sum(option["bits"] == FLOATS for option in options)
        gain = numbers.reduction(content["whole"]["latency"], chosen["latency"])
        taken = _amount(metric, chosen["latency"])
        return f"{floats} of {len(options)} layers in floats: {taken}, {gain} against all in floats"
    if chosen is None:
        return f"{len(content['front'])} choices of bits and sparsity that nothing beats"
    lost = numbers.significant(max(0.0, chosen["loss"]))
    at = f"{NAMES[metric]} {_amount(metric, chosen[metric])} at +{lost} nats"
    rivals = [point for point in content["uniform"] if point["loss"] <= chosen["loss"]]
    if not rivals:
        return f"{at}; no uniform choice loses as little"
    rival = min(rivals, key=lambda point: point[metric])
    gain = numbers.reduction(rival[metric], chosen[metric])
    return f"{at}: {gain} against {rival['name']} everywhere"


def _amount(metric: str, value: float) -> str:
    if metric == "size":
        return numbers.size(value)
    return numbers.count(value) if metric == "macs" else f"{numbers.significant(value)} ms"
