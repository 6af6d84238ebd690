"""The charts of a study of mask searches: accuracies, and how far each search is ahead of the plain ways."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import altair as alt

from kezuri.report import numbers
from kezuri.report.mask_findings import headline
from kezuri.report.mask_study import (
    BEFORE,
    Difference,
    MaskStudyView,
    differences,
    share,
    stage_header,
    stage_words,
)
from kezuri.report.plots import Chart, over, titled
from kezuri.report.theme import BLUE, GREY, INK, SKY, VERMILLION, WIDTH

LINE = 14
"""Height of one stage, or one reference, of a searcher."""

AFTER = (GREY, SKY, BLUE, INK)
"""Colours of the stages after retraining, the last of them for the last stage; more of them begin anew."""

LABELS = 110
"""What the names of searchers take of the width."""

Row = dict[str, Any]


def mask_study_charts(study: MaskStudyView) -> dict[str, Chart]:
    """The charts there is something to draw for: `accuracy`, `differences`."""
    drawn = {"accuracy": accuracy_chart(study), "differences": differences_chart(study)}
    return {name: chart for name, chart in drawn.items() if chart is not None}


def accuracy_chart(study: MaskStudyView) -> Chart | None:
    """Accuracy before and after retraining: every draw, and the mean with one standard deviation."""
    rows = {sparsity: _accuracies(study, sparsity) for sparsity in study.sparsities}
    shown = [sparsity for sparsity in study.sparsities if rows[sparsity]]
    if not shown:
        return None
    dense = study.dense * 100
    scale = _scale([row for sparsity in shown for row in rows[sparsity]], dense)
    after = len(study.stages) - 1
    colours = [VERMILLION, *(AFTER[-1 - number % len(AFTER)] for number in reversed(range(after)))]
    lines = dict(zip(map(_line, study.stages), colours, strict=True))
    panels = []
    for sparsity in shown:
        last = sparsity == shown[-1]
        title = f"accuracy, {study.split} (%)" if last else None
        axis = alt.Axis(labels=last, ticks=last, domain=last)
        x = alt.X("value:Q", title=title, scale=scale, axis=axis)
        panel = _panel(rows[sparsity], x, study.searchers, lines, dense)
        panels.append(panel.properties(width=WIDTH - LABELS, title=_heading(f"{share(sparsity)} removed")))
    line = f"line: dense, {numbers.percent(study.dense)}"
    words = f"Before, and after retraining with so many images; bold: mean, one standard deviation; {line}"
    return titled(alt.vconcat(*panels, spacing=10), headline(study), words)


def differences_chart(study: MaskStudyView) -> Chart | None:
    """How far each search is ahead of random search and of magnitude, a panel a stage; 95 % intervals."""
    shown = [one for one in differences(study) if one.searcher in study.contenders]
    if not shown:
        return None
    names = [f"{name}, {share(sparsity)}" for sparsity in study.sparsities for name in study.contenders]
    colours = {
        f"against {name}": colour for name, colour in zip(study.references, (BLUE, VERMILLION), strict=False)
    }
    stages = [stage for stage in study.stages if any(one.stage == stage for one in shown)]
    panels = []
    for stage in stages:
        rows = [_difference(one) for one in shown if one.stage == stage]
        x = alt.X("value:Q", title="points ahead", scale=_scale(rows, 0.0), axis=alt.Axis(tickCount=4))
        panel = _panel(rows, x, names, colours, 0.0, labels=stage == stages[0])
        width = (WIDTH - LABELS) // len(stages)
        panels.append(panel.properties(width=width, title=_heading(_line(stage))))
    words = "Mean difference on the same draws, 95 % interval, before and after retraining with images"
    return titled(alt.hconcat(*panels, spacing=14), headline(study), words)


def _line(stage: str) -> str:
    return stage_words(stage) if stage == BEFORE else stage_header(stage)


def _accuracies(study: MaskStudyView, sparsity: float) -> list[Row]:
    rows: list[Row] = []
    for searcher in study.searchers:
        for stage in study.stages:
            found = study.accuracies(searcher, sparsity, stage)
            if found:
                said = {"name": searcher, "line": _line(stage)}
                rows += [
                    {**said, "what": "draw", "of": f"draw {draw}", "value": right * 100}
                    for draw, right in found.items()
                ]
                mean = fmean(found.values()) * 100
                around = stdev(found.values()) * 100 if len(found) > 1 else 0.0
                ends = {"low": mean - around, "high": mean + around}
                rows.append({**said, "what": "mean", "of": f"{len(found)} draws", "value": mean, **ends})
    return rows


def _difference(one: Difference) -> Row:
    found = one.found
    ends = [found.mean if end is None else end for end in (found.low, found.high)]
    return {
        "name": f"{one.searcher}, {share(one.sparsity)}",
        "line": f"against {one.reference}",
        "what": "mean",
        "of": f"{found.pairs} draws, p {numbers.significant(found.different, 2)}",
        "value": found.mean * 100,
        "low": ends[0] * 100,
        "high": ends[1] * 100,
    }


def _scale(rows: Sequence[Row], line: float) -> alt.Scale:
    """Around all that is drawn, and the line."""
    ends = [row[key] for row in rows for key in ("value", "low", "high") if key in row] + [line]
    room = 0.03 * (max(ends) - min(ends)) or 1.0
    return alt.Scale(domain=[min(ends) - room, max(ends) + room], nice=False, zero=False)


def _heading(text: str) -> alt.TitleParams:
    return alt.TitleParams(text, fontSize=13, fontWeight=600, offset=4, frame="bounds")


def _panel(
    rows: Sequence[Row],
    x: alt.X,
    names: Sequence[str],
    colours: Mapping[str, str],
    line: float,
    *,
    labels: bool = True,
) -> Any:
    """Each name with its lines below each other, in their colours, and a line across all of them."""
    shown = [name for name in names if any(row["name"] == name for row in rows)]
    lines = list(colours)
    legend = alt.Legend(labelLimit=300)
    colour = alt.Color(
        "line:N", scale=alt.Scale(domain=lines, range=list(colours.values())), title=None, legend=legend
    )
    axis = alt.Axis(ticks=False, domain=False, labels=labels, labelLimit=200)
    y = alt.Y("name:N", sort=shown, title=None, axis=axis)
    place = alt.YOffset("line:N", sort=lines, scale=alt.Scale(domain=lines, paddingOuter=0.6))
    tip = [alt.Tooltip(name) for name in ("name:N", "line:N", "of:N")]
    means, draws = (over([row for row in rows if row["what"] == what]) for what in ("mean", "draw"))
    layers = [
        over([{"value": line}]).mark_rule(color=GREY, strokeWidth=1.5).encode(x=x),
        draws.mark_point(filled=True, size=22, opacity=0.3).encode(x=x, y=y, yOffset=place, color=colour),
        means.mark_rule(strokeWidth=2).encode(
            x=alt.X("low:Q"), x2="high:Q", y=y, yOffset=place, color=colour
        ),
        means.mark_point(filled=True, size=75, opacity=1).encode(
            x=x, y=y, yOffset=place, color=colour, tooltip=[*tip, alt.Tooltip("value:Q", format=".2f")]
        ),
    ]
    height = LINE * len(shown) * (len(lines) + 0.6)
    return alt.layer(*layers).properties(height=height)
