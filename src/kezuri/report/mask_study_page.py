"""The report of a study of mask searches: one HTML page."""

from collections.abc import Iterator, Mapping
from typing import Any

from kezuri.report import markup, numbers
from kezuri.report.mask_findings import headline, worth_table
from kezuri.report.mask_study import MaskStudyView, differences_table, searches_table
from kezuri.report.page import PAGE_WIDTH
from kezuri.report.plots import Chart


def mask_study_page(study: MaskStudyView, charts: Mapping[str, Chart]) -> str:
    """The report as HTML; `charts` holds `accuracy` and `differences` where there are such."""
    table = searches_table(study)
    most = table.fitting(PAGE_WIDTH)
    rest = markup.table(table) if most.columns != table.columns else ""
    plan = study.plan
    lead = (
        f"{plan['model']['use']} on {plan['data']}, dense {numbers.percent(study.dense)}: "
        f"{len(study.outcomes)} of {study.cells} searches done, about {numbers.count(plan['evaluations'])} "
        f"masks judged in each, {plan['draws']} draws. Searches see training images only; accuracy is of the "
        f"{study.split} images, by which nothing is chosen."
    )
    failed = "".join(markup.paragraph(reason) for reason in study.failed)
    body = "\n".join(
        (
            f'<div class="brand"><b>Kezuri</b> · search for masks · {markup.escape(str(plan["data"]))}</div>',
            f"<h1>{markup.escape(headline(study))}</h1>",
            markup.paragraph(lead, "lead"),
            markup.section("Was it worth it?", markup.table(worth_table(study))),
            markup.section("Accuracy", _figure("accuracy", charts), markup.table(most)),
            markup.fold("All columns", rest),
            markup.section(
                "Differences on the same draws",
                _figure("differences", charts),
                markup.fold("All differences", markup.table(differences_table(study))),
            ),
            markup.section("Not done", failed),
            markup.section("Settings", markup.pairs(_settings(plan))),
            "<footer>Kezuri study of mask searches. This file needs no network.</footer>",
        )
    )
    return markup.page(f"Search for masks: {headline(study)}", body, dict(charts))


def _figure(name: str, charts: Mapping[str, Chart]) -> str:
    return markup.figure(name) if name in charts else ""


def _settings(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in plan.items():
        if name == "searchers":
            for label, settings in value.items():
                yield label, _spell(settings)
        else:
            yield name, _spell(value)


def _spell(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_spell(one)}" for key, one in value.items() if one not in (None, {}, []))
    if isinstance(value, list):
        return ", ".join(map(_spell, value))
    return numbers.setting(value)
