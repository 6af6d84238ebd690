"""The chart of a run's rounds: accuracy and size after each, and of the final model."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from kezuri.core.measurement import Measurement
from kezuri.report import numbers
from kezuri.report.plots import Chart, finding, over, titled
from kezuri.report.reading import Round, RunView
from kezuri.report.theme import BLUE, INK, MUTED, SKY, VERMILLION, WIDTH

WORDS = "Validation accuracy (bars: 95 % interval) and size of the weights after each round"
FINAL_WORDS = "final: after the steps that followed, with the size of its ONNX file"
FAR = 0.1  # a floor further below the data, in accuracy, would flatten them


def rounds_chart(run: RunView) -> Chart | None:
    """Accuracy and size after every round and of the final model, with the floor and what was rolled back."""
    if not run.rounds:
        return None
    ended = _after(run)
    last = max(entry.round for entry in run.rounds)
    ends = last + 1 if ended else last
    places, words = list(range(ends + 1)), f"datum.value > {last} ? 'final' : format(datum.value, 'd')"
    axis = alt.Axis(values=places, labelExpr=words, grid=False, title="round (0: before the first)")
    bare = alt.Axis(values=places, labels=False, ticks=False, grid=False, title=None)
    margin = max(0.15, ends * 0.04)
    scale = alt.Scale(domain=[-margin, max(ends, 1) + margin], nice=False, zero=False)
    upper = _accuracy_panel(run, ended, alt.X("round:Q", axis=bare, scale=scale))
    lower = _size_panel(run.rounds, ended, alt.X("round:Q", axis=axis, scale=scale))
    panels = alt.vconcat(upper, lower, spacing=18).resolve_scale(color="independent", shape="independent")
    where = f" on {run.split} images" if run.final("accuracy", split=run.split) else ""
    lines = [WORDS, *([FINAL_WORDS] if ended else [])]
    return titled(panels, f"{finding(run)}{where}", lines if ended else WORDS)


def _after(run: RunView) -> Round | None:
    """The final model as a point after the rounds, where other steps changed it once more."""
    right, params = run.find("accuracy", model="final", split="validation"), run.find("params", model="final")
    size = run.find("size", model="final", format="onnx")
    if right is None or params is None or size is None:
        return None
    same = [
        entry
        for entry in run.rounds
        if entry.stands and entry.params == params.value and _is(entry.validation, right)
    ]
    place = max(entry.round for entry in run.rounds) + 1
    return None if same else Round(place, size=size.value, validation=right, verdict="final")


def _is(one: Measurement | None, other: Measurement) -> bool:
    return one is not None and abs(one.value - other.value) < 1e-6


def _accuracy_panel(run: RunView, ended: Round | None, x: alt.X) -> Any:
    rows: list[dict[str, Any]] = [
        {
            "round": entry.round,
            "accuracy": found.value * 100,
            "low": None if found.low is None else found.low * 100,
            "high": None if found.high is None else found.high * 100,
            "series": "final" if entry is ended else series if entry.stands else "rolled back",
            "why": entry.why,
        }
        for entry in (*run.rounds, *([ended] if ended else []))
        for series, found in (("validation", entry.validation), ("train", entry.train))
        if found is not None and (entry.stands or series == "validation")
    ]
    looks = {
        "validation": (BLUE, "circle"),
        "train": (SKY, "square"),
        "rolled back": (VERMILLION, "cross"),
        "final": (INK, "diamond"),
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
    standing = chart.transform_filter("datum.series != 'rolled back' && datum.series != 'final'")
    spread = chart.transform_filter(
        "indexof(['validation', 'final'], datum.series) >= 0 && datum.low != null"
    )
    layers: list[alt.Chart] = [
        spread.mark_rule(color=BLUE, opacity=0.35, strokeWidth=5).encode(x=x, y=alt.Y("low:Q"), y2="high:Q"),
        standing.mark_line(strokeWidth=2).encode(x=x, y=y, color=color),
        chart.mark_point(filled=True, size=70, opacity=1).encode(
            x=x, y=y, color=color, shape=shape, tooltip=tip
        ),
    ]
    if shows_floor(run.floor, [row["accuracy"] / 100 for row in rows]):
        assert run.floor is not None
        layers += _floor(run.floor * 100)
    return alt.layer(*layers).properties(width=WIDTH, height=230)


def shows_floor(floor: float | None, accuracies: Sequence[float]) -> bool:
    """Whether a floor lies near enough to these accuracies (fractions) for a picture of both."""
    if floor is None or floor <= 0 or not accuracies:
        return False
    low, high = min(accuracies), max(accuracies)
    return floor >= low - max(FAR, 2 * (high - low))


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


def _size_panel(rounds: Sequence[Round], ended: Round | None, x: alt.X) -> Any:
    rounds = [*rounds, *([ended] if ended else [])]
    unit, scale = numbers.size_unit([entry.size for entry in rounds])
    rows = [
        {
            "round": entry.round,
            "size": entry.size / scale,
            "words": numbers.significant(entry.size / scale, 3 if len(rounds) < 9 else 2),
            "series": "final" if entry is ended else "kept" if entry.stands else "rolled back",
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
    lost = chart.transform_filter("datum.series == 'rolled back'")
    final = chart.transform_filter("datum.series == 'final'")
    named = chart.transform_filter("datum.series != 'rolled back'")
    return alt.layer(
        kept.mark_line(strokeWidth=2, color=BLUE).encode(x=x, y=y),
        kept.mark_point(filled=True, size=70, opacity=1, color=BLUE).encode(x=x, y=y, tooltip=tip),
        lost.mark_point(filled=True, size=70, opacity=1, color=VERMILLION, shape="cross").encode(
            x=x, y=y, tooltip=tip
        ),
        final.mark_point(filled=True, size=80, opacity=1, color=INK, shape="diamond").encode(
            x=x, y=y, tooltip=tip
        ),
        named.mark_text(dx=9, dy=-11, fontSize=11.5, color=MUTED).encode(x=x, y=y, text="words:N"),
    ).properties(width=WIDTH, height=150)
