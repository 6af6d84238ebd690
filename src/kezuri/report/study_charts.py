"""The charts of a study: every row's accuracy, and accuracy against bytes and against milliseconds."""

from typing import Any

import altair as alt

from kezuri.report import numbers
from kezuri.report.findings import best_words, headline
from kezuri.report.pareto import Cost, Families, pareto_chart
from kezuri.report.plots import Chart, over, titled
from kezuri.report.study import BASE, LONGER, StudyView
from kezuri.report.tables import FRONT
from kezuri.report.theme import BLUE, GREEN, GREY, INK, MUTED, ORANGE, VERMILLION, WIDTH

ROW = 21
COSTS: tuple[Cost, ...] = ("size", "latency")
FAMILIES = {
    "teacher": "trained",
    "baseline": "trained",
    "distill": "distilled",
    "assistant": "distilled",
    "ptq": "8 bits",
    "qat": "8 bits",
    "prune": "pruned",
    "chain": "all three",
}
COLOURS = {"trained": GREY, "distilled": BLUE, "8 bits": ORANGE, "pruned": GREEN, "all three": VERMILLION}


def study_charts(study: StudyView) -> dict[str, Chart]:
    """The charts there is something to draw for: `methods`, `pareto`, `latency`."""
    families = Families({row.name: _family(row.method) for row in study.rows}, COLOURS)
    named = (BASE, LONGER)
    titles = {cost: best_words(study, cost) or headline(study) for cost in COSTS}
    drawn = {
        "methods": methods_chart(study),
        "pareto": pareto_chart(study.comparison, families=families, named=named, title=titles["size"]),
        "latency": pareto_chart(
            study.comparison, cost="latency", families=families, named=named, title=titles["latency"]
        ),
    }
    return {name: chart for name, chart in drawn.items() if chart is not None}


def _family(method: str) -> str:
    return FAMILIES.get(method, "trained")


def methods_chart(study: StudyView) -> Chart | None:
    """The accuracy of every row with its spread, and its file's size in words."""
    shown = [row for row in study.rows if row.condition and row.condition.accuracy and row.condition.size]
    if not shown:
        return None
    rows: list[dict[str, Any]] = []
    for row in shown:
        assert row.condition is not None and row.condition.accuracy is not None
        right, size = row.condition.accuracy, row.condition.size
        ends = [right.value if end is None else end for end in (right.low, right.high)]
        rows.append(
            {
                "name": row.name,
                "accuracy": right.value * 100,
                "low": ends[0] * 100,
                "high": ends[1] * 100,
                "size": numbers.size(None if size is None else size.value)
                + (f" {FRONT}" if row.condition.on_front else ""),
                "family": _family(row.method),
            }
        )
    chart = over(rows)
    y = alt.Y("name:N", sort=[row.name for row in shown], title=None, axis=alt.Axis(labelLimit=260))
    known = [row[end] for row in rows for end in ("low", "high")]
    room = max(0.1, (max(known) - min(known)) * 0.04)
    domain = [max(0.0, min(known) - room), min(100.0, max(known) + room)]
    scale = alt.Scale(domain=domain, zero=False, nice=False)
    x = alt.X("accuracy:Q", title=f"accuracy, {study.split} (%)", scale=scale)
    families = [name for name in COLOURS if any(row["family"] == name for row in rows)]
    colours = alt.Scale(domain=families, range=[COLOURS[name] for name in families])
    colour = alt.Color("family:N", scale=colours, title=None)
    layers = [
        chart.transform_filter(f"datum.name == '{BASE}'")
        .mark_rule(color=INK, strokeDash=[5, 4], strokeWidth=1)
        .encode(x=x),
        chart.mark_rule(clip=True, strokeWidth=2, opacity=0.5).encode(
            x=alt.X("low:Q"), x2="high:Q", y=y, color=colour
        ),
        chart.mark_point(filled=True, size=80, opacity=1).encode(x=x, y=y, color=colour),
        chart.mark_text(align="left", dx=8, fontSize=11.5, color=MUTED).encode(
            x=alt.value(WIDTH), y=y, text="size:N"
        ),
    ]
    panel = alt.layer(*layers).properties(width=WIDTH, height=ROW * len(rows))
    words = (
        f"Accuracy (bars: {_bars(study)}) and ONNX file of every row; dashed: {BASE}; {FRONT}: on the front"
    )
    return titled(panel, headline(study), words)


def _bars(study: StudyView) -> str:
    several = any(row.condition is not None and len(row.condition.folders) > 1 for row in study.rows)
    return "one standard deviation over seeds" if several else "95 % interval"
