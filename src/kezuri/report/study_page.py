"""The report of a study: one HTML page, and the chart of its methods."""

from collections.abc import Mapping

import altair as alt

from kezuri.report import markup, numbers
from kezuri.report.findings import findings_table, headline
from kezuri.report.page import PAGE_WIDTH
from kezuri.report.plots import Chart, over, titled
from kezuri.report.study import BASE, StudyView
from kezuri.report.study_tables import refusals_table, study_table
from kezuri.report.theme import BLUE, GREY, INK, MUTED, WIDTH

ROW = 21


def study_page(study: StudyView, charts: Mapping[str, Chart]) -> str:
    """The report of a study as HTML; `charts` holds `methods` and `pareto` where there are such."""
    table = study_table(study).filled()
    marked = ["" if row.condition and row.condition.on_front else "quiet" for row in study.rows]
    most = table.fitting(PAGE_WIDTH)
    rest = markup.table(table, marked=marked) if most.columns != table.columns else ""
    plan = study.plan
    lead = (
        f"{plan['data']}: {len(study.rows)} rows; seeds: {plan['seeds']}; epochs of a training: "
        f"{numbers.setting(plan['epochs'])}. Accuracy on the {study.split} images, which each run looked at "
        "once, at its end."
    )
    body = "\n".join(
        (
            f'<div class="brand"><b>Kezuri</b> · study · {markup.escape(str(plan["data"]))}</div>',
            f"<h1>{markup.escape(headline(study))}</h1>",
            markup.paragraph(lead, "lead"),
            markup.section("Findings", markup.table(findings_table(study))),
            markup.section(
                "Methods",
                *(markup.figure(name) for name in charts),
                markup.table(most, marked=marked),
                markup.fold("All columns", rest),
            ),
            markup.section("Not done", markup.table(refusals_table(study))),
            markup.section("Settings", markup.pairs(_settings(study))),
            "<footer>Kezuri study. This file needs no network.</footer>",
        )
    )
    return markup.page(f"Study: {headline(study)}", body, dict(charts))


def methods_chart(study: StudyView) -> Chart | None:
    """The accuracy of every row with its spread, and its file's size in words."""
    shown = [row for row in study.rows if row.condition and row.condition.accuracy and row.condition.size]
    if not shown:
        return None
    rows = []
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
                "size": numbers.size(None if size is None else size.value),
                "state": "on the front" if row.condition.on_front else "beaten",
            }
        )
    chart = over(rows)
    y = alt.Y("name:N", sort=[row.name for row in shown], title=None, axis=alt.Axis(labelLimit=260))
    scale = alt.Scale(zero=False, nice=False, padding=18)
    x = alt.X("accuracy:Q", title=f"accuracy, {study.split} (%)", scale=scale)
    colours = alt.Scale(domain=["on the front", "beaten"], range=[BLUE, GREY])
    colour = alt.Color("state:N", scale=colours, title=None)
    layers = [
        chart.transform_filter(f"datum.name == '{BASE}'")
        .mark_rule(color=INK, strokeDash=[5, 4], strokeWidth=1)
        .encode(x=x),
        chart.mark_rule(strokeWidth=2, opacity=0.5).encode(x=alt.X("low:Q"), x2="high:Q", y=y, color=colour),
        chart.mark_point(filled=True, size=80, opacity=1).encode(x=x, y=y, color=colour),
        chart.mark_text(align="left", dx=8, fontSize=11.5, color=MUTED).encode(
            x=alt.value(WIDTH), y=y, text="size:N"
        ),
    ]
    panel = alt.layer(*layers).properties(width=WIDTH, height=ROW * len(rows))
    words = f"Accuracy (bars: {_bars(study)}) and ONNX file of every row; dashed: {BASE}"
    return titled(panel, headline(study), words)


def _bars(study: StudyView) -> str:
    several = any(row.condition is not None and len(row.condition.folders) > 1 for row in study.rows)
    return "one standard deviation over seeds" if several else "95 % interval"


def _settings(study: StudyView) -> list[tuple[str, str]]:
    return [(name, _spell(value)) for name, value in study.plan.items()]


def _spell(value: object) -> str:
    if isinstance(value, dict) and "use" in value:
        options = "".join(f", {key} {option}" for key, option in (value.get("options") or {}).items())
        return f"{value['use']}{options}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
