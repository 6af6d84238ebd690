"""The report of a study: one HTML page."""

from collections.abc import Mapping

from kezuri.report import markup, numbers
from kezuri.report.findings import findings_table, headline
from kezuri.report.page import PAGE_WIDTH
from kezuri.report.plots import Chart
from kezuri.report.study import StudyView
from kezuri.report.study_tables import refusals_table, study_table


def study_page(study: StudyView, charts: Mapping[str, Chart]) -> str:
    """The report of a study as HTML; `charts` are those of `study_charts`."""
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


def _settings(study: StudyView) -> list[tuple[str, str]]:
    return [(name, _spell(value)) for name, value in study.plan.items()]


def _spell(value: object) -> str:
    if isinstance(value, dict) and "use" in value:
        options = "".join(f", {key} {option}" for key, option in (value.get("options") or {}).items())
        return f"{value['use']}{options}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
