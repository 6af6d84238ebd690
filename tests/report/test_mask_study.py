"""The report of a study of mask searches, from folders whose numbers are made up."""

import json
from pathlib import Path

import numpy as np
import pytest

from kezuri.artifact.folder import MaskStudyFolder
from kezuri.core.errors import CorruptArtifact, DataError
from kezuri.report.mask_findings import headline, worth_table, worths
from kezuri.report.mask_study import MaskStudyView, differences, differences_table, searches_table
from kezuri.report.mask_study_charts import accuracy_chart, differences_chart, mask_study_charts
from kezuri.report.mask_study_page import mask_study_page
from kezuri.report.write import write_mask_study, write_report

SEARCHERS = ("genetic", "random", "magnitude")
AHEAD = {"genetic": 0.12, "random": 0.0, "magnitude": 0.08}
"""Before retraining; afterwards all are equal but for what the draw brings."""


def write(
    path: Path,
    *,
    draws=8,
    sparsities=(0.8, 0.9),
    per_class=("1", "all"),
    searchers=SEARCHERS,
    missing=(),
    failed=(),
) -> Path:
    """The folder of a study; `missing` names (searcher, draw) whose search did not end."""
    folder, dice = MaskStudyFolder(path), np.random.default_rng(0)
    cells = []
    for sparsity in sparsities:
        for draw in range(draws):
            of_draw = dice.normal(0, 0.03)
            for searcher in searchers:
                name = f"{searcher}-{sparsity:g}-{draw}"
                reason = "the loss is not finite" if (searcher, draw) in failed else None
                said = {
                    "searcher": searcher,
                    "sparsity": sparsity,
                    "draw": draw,
                    "folder": name,
                    "reason": reason,
                }
                cells.append({**said, "retrained": {stage: f"retrained-{stage}" for stage in per_class}})
                noise = dice.normal(0, 0.004, 3)
                if reason or (searcher, draw) in missing:
                    continue
                cell = folder.cell(name)
                cell.path.mkdir(parents=True)
                before = 0.6 - sparsity / 4 + AHEAD.get(searcher, 0.1) + noise[0]
                found = {"accuracy": before, "fitness": {"accuracy": before + 0.02}, "seconds": 20 + draw}
                cell.search.write_text(
                    json.dumps({**found, "evaluations": 1 if searcher == "magnitude" else 1000})
                )
                after = {"1": 0.75 + of_draw + noise[1], "all": 0.86 + noise[2] / 4}
                for stage in per_class:
                    cell.retrained(f"retrained-{stage}").write_text(json.dumps({"accuracy": after[stage]}))
    plan = {
        "model": {"use": "lenet5", "options": {}, "weights": None},
        "data": "fashion-mnist",
        "sparsities": list(sparsities),
        "searchers": {name: {"use": name} for name in searchers},
        "evaluations": 1000,
        "draws": draws,
        "per_class": list(per_class),
    }
    record = {"plan": plan, "split": "test", "dense": 0.89, "cells": cells}
    folder.record.write_text(json.dumps(record))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return MaskStudyView.read(write(tmp_path_factory.mktemp("study")))


def verdicts(view):
    return {(one.searcher, one.stage): one.verdict for one in worths(view)}


def test_a_gain_before_retraining_that_retraining_takes_away(whole):
    assert verdicts(whole) == {
        ("genetic", "before"): "worth it",
        ("genetic", "1"): "no gain shown",
        ("genetic", "all"): "no gain shown",
    }
    assert headline(whole) == (
        "Searching was worth it 2 of 2 times before retraining, 0, 0 of 2 times after it with 1, all images a class"
    )
    said = worth_table(whole).text()
    assert "against random +12" in said and "than random and than magnitude" in said


def test_pairs_take_the_draw_out_of_the_difference(whole):
    found = {(one.stage, one.searcher): one.found for one in differences(whole) if one.sparsity == 0.9}
    spread = np.std(list(whole.accuracies("genetic", 0.9, "1").values()), ddof=1)
    after = found["1", "genetic"]
    assert spread > 0.015 and after.high - after.low < 0.01
    before = whole.compared("genetic", "random", 0.9, "before")
    assert before.low < 0.12 < before.high and before.different == 2 / 256


def test_magnitude_is_held_against_random_and_nothing_against_itself(whole):
    pairs = {(one.searcher, one.reference) for one in differences(whole)}
    assert pairs == {("genetic", "random"), ("magnitude", "random"), ("genetic", "magnitude")}


def test_the_table_has_a_row_a_searcher_and_sparsity(whole):
    rows = json.loads(searches_table(whole).json())
    assert [(row["sparsity"], row["searcher"]) for row in rows] == [
        (s, n) for s in (0.8, 0.9) for n in SEARCHERS
    ]
    assert rows[2]["evaluations"] == 1 and rows[0]["draws"] == 8 and rows[0]["seconds"] == 23.5
    found = list(whole.accuracies("genetic", 0.8, "all").values())
    assert rows[0]["accuracy_all"] == pytest.approx(np.mean(found))
    assert f"{np.mean(found) * 100:.2f} ± {np.std(found, ddof=1) * 100:.2f}" in searches_table(whole).text()


def test_searchers_with_settings_are_told_apart(tmp_path):
    record = write(tmp_path) / "mask-study.json"
    text = (
        record.read_text()
        .replace('"magnitude"', '"genetic:elites=4"')
        .replace('{"use": "genetic:elites=4"}', '{"use": "genetic", "elites": 4}')
    )
    record.write_text(text)
    view = MaskStudyView.read(tmp_path)
    assert view.references == ("random",) and view.contenders == ("genetic", "genetic:elites=4")


def test_only_draws_that_both_have_are_compared(tmp_path):
    view = MaskStudyView.read(write(tmp_path, missing=[("genetic", 0), ("random", 1), ("random", 2)]))
    assert view.compared("genetic", "random", 0.8, "1").pairs == 5
    assert view.compared("genetic", "magnitude", 0.8, "1").pairs == 7
    assert verdicts(view)["genetic", "before"] == "too few draws"
    assert len(view.outcomes) == view.cells - 6


def test_a_gain_at_one_sparsity_is_named(tmp_path):
    view = MaskStudyView.read(write(tmp_path))
    for one in view.of("genetic", 0.8):
        cell = MaskStudyFolder(tmp_path).cell(f"genetic-0.8-{one.draw}")
        cell.search.write_text(cell.search.read_text().replace('"accuracy": 0.5', '"accuracy": 0.3'))
    view = MaskStudyView.read(tmp_path)
    assert verdicts(view)["genetic", "before"] == "worth it at 90 %"


@pytest.mark.parametrize("searchers", [("genetic",), ("random", "magnitude"), ("genetic", "magnitude")])
def test_any_choice_of_searchers_is_reported(tmp_path, searchers):
    view = MaskStudyView.read(write(tmp_path, draws=6, searchers=searchers))
    page = mask_study_page(view, mask_study_charts(view))
    assert all(name in page for name in searchers)
    assert ("worth it" in page) == (len(worths(view)) > 0 or "tell whether" in headline(view))


def test_a_study_that_has_just_begun(tmp_path):
    missing = [(name, draw) for name in SEARCHERS for draw in range(8)]
    view = MaskStudyView.read(write(tmp_path, missing=missing))
    assert headline(view).startswith("0 of 48 searches are done; 6 draws")
    assert accuracy_chart(view) is None and differences_chart(view) is None
    assert "–" in searches_table(view).text() and not differences_table(view).rows
    assert write_report(tmp_path) == write_mask_study(tmp_path)


def test_the_page_holds_everything_and_needs_no_network(tmp_path):
    page = write_mask_study(write(tmp_path, failed=[("genetic", 3)])).read_text(encoding="utf-8")
    assert "genetic at 80 %, draw 3: the loss is not finite" in page
    assert 'data-chart="accuracy"' in page and 'data-chart="differences"' in page
    assert "http://" not in page.partition("<script")[0]
    assert {one.name for one in (tmp_path / "plots").iterdir()} == {"accuracy.png", "differences.png"}
    assert (tmp_path / "searches.csv").read_text().startswith("sparsity,searcher,accuracy_before,accuracy_1,")
    assert (tmp_path / "differences.csv").read_text().count("\n") == 1 + 3 * 3 * 2


def test_the_charts_hold_every_draw(whole):
    charts = mask_study_charts(whole)
    shown = json.dumps(charts["accuracy"].to_dict(validate=True))
    assert shown.count('"what": "draw"') == 2 * 3 * 8 * 3
    assert json.dumps(charts["differences"].to_dict(validate=True)).count('"what": "mean"') == 2 * (2 * 3 * 2)


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="no file"):
        MaskStudyView.read(tmp_path)
    (tmp_path / "mask-study.json").write_text("{}")
    with pytest.raises(CorruptArtifact, match="does not hold a study of masks"):
        MaskStudyView.read(tmp_path)
