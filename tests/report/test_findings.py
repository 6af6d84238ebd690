"""Findings are read off the measured rows, and told either way."""

import json
from typing import Any

import pytest

from kezuri.core.errors import CorruptArtifact, DataError
from kezuri.report.findings import findings, findings_table, headline
from kezuri.report.study import StudyView
from kezuri.report.study_charts import methods_chart
from kezuri.report.study_page import study_page
from kezuri.report.study_tables import study_data, study_table

PLAN = {"data": "mnist", "epochs": 4, "seeds": 1, "student": {"use": "plain2", "options": {"width": 0.25}}}


@pytest.fixture
def study(make_run, tmp_path):
    """`study({"student": (0.7, 0), …})`: accuracy and rounds of cutting, which make the file smaller."""

    def make(rows: dict[str, Any], seeds=(0.0,), **entries):
        cells = []
        for name, (right, rounds) in rows.items():
            method = "chain" if name.count("-") == 2 and "prune-" in name[1:] else name
            for seed, off in enumerate(seeds):
                drop = {"accuracy": right + off + 0.002, "drop": 0.0}
                make_run(f"{name}-{seed}", name=name, seed=seed, rounds=rounds + 1, rolled_back=(), **drop)
                said = {"status": "finished", "run": f"{name}-{seed}", "reason": None}
                cells.append({"name": name, "method": method, "seed": seed, "epochs": 4, **said})
        for name, reason in entries.items():
            said = {"status": "refused", "run": None, "reason": reason}
            cells.append({"name": name, "method": "chain", "seed": 0, "epochs": 4, **said})
        (tmp_path / "study.json").write_text(json.dumps({"plan": PLAN, "cells": cells}))
        return StudyView.read(tmp_path)

    return make


def verdicts(view):
    return [one.verdict for one in findings(view)]


BOTH = "prune-local-structured-"


def test_all_of_them_hold_where_the_numbers_say_so(study):
    view = study(
        {
            "student": (0.7, 0),
            "teacher": (0.77, 0),
            "distilled": (0.71, 0),
            "distilled-assistant": (0.75, 0),
            "ptq": (0.7, 4),
            f"{BOTH}conv": (0.69, 3),
            f"{BOTH}dense": (0.6, 2),
            "distill-prune-quantize": (0.695, 6),
        }
    )
    assert verdicts(view) == ["holds"] * 4
    quarter, assistant, conv, chain = findings(view)
    assert "ptq 24.0 % of" in quarter.numbers
    assert "distilled-assistant 75.00 % in 4 epochs; distilled 71.00 % in 4 epochs" in assistant.numbers
    assert "69.00 %" in conv.numbers and "60.00 %" in conv.numbers
    assert "distill-prune-quantize, 8.5× smaller at −0.5 points" in chain.numbers
    assert "4 of 4 claims hold on mnist" in study_page(view, {})
    assert "against student;" in study_table(view).text()


def test_none_of_them_holds_where_the_numbers_say_so(study):
    view = study(
        {
            "student": (0.7, 0),
            "teacher": (0.77, 0),
            "distilled": (0.75, 0),
            "distilled-assistant": (0.71, 0),
            "ptq": (0.7, 2),
            f"{BOTH}conv": (0.6, 2),
            f"{BOTH}dense": (0.69, 3),
            "distill-prune-quantize": (0.5, 6),
        }
    )
    assert verdicts(view) == ["does not hold"] * 4
    assert "distill-prune-quantize is 8.5× smaller at −20 points" in findings(view)[3].numbers


def test_a_chain_is_judged_against_a_student_that_is_trained_as_long(study):
    rows = {"student": (0.7, 0), "ptq": (0.7, 2), "distill-prune-quantize": (0.695, 6)}
    longer = study({**rows, "student-longer": (0.72, 0)})
    found = findings(longer)[3]
    assert found.verdict == "does not hold"
    assert found.numbers == (
        "1 of 4 rows lose at most 1 point against student-longer; the smallest of them is student-longer, as "
        "large at ±0 points (+2 points against student); distill-prune-quantize is 8.5× smaller at −2.5 points "
        "(−0.5 points against student)"
    )
    row = json.loads(study_data(longer).json())[-2]
    assert row["change"] == pytest.approx(-0.025) and row["change_student"] == pytest.approx(-0.005)
    assert (
        "vs student" in study_table(longer).text()
        and "points: against student-longer" in study_table(longer).text()
    )


def test_the_headline_of_what_is_not_finished_counts_runs(study, tmp_path):
    study({"student": (0.7, 0), "distill-prune-quantize": (0.7, 4), "ptq": (0.7, 4)})
    record = json.loads((tmp_path / "study.json").read_text())
    for cell in record["cells"][1:]:
        cell |= {"status": "not started", "run": None}
    record["cells"].append({**record["cells"][-1], "name": "refused", "status": "refused"})
    (tmp_path / "study.json").write_text(json.dumps(record))
    view = StudyView.read(tmp_path)
    assert headline(view) == "1 of 3 runs are done"
    quarter, assistant, _, chain = findings(view)
    assert quarter.verdict == chain.verdict == "not measured yet"
    assert assistant.verdict == "not measured" and "needs the methods" in assistant.numbers


def test_the_headline_without_claims_names_the_smallest_row(study):
    view = study({"student": (0.7, 0), "prune-global-unstructured-conv": (0.695, 3), "other": (0.5, 5)})
    assert headline(view) == (
        "Smallest that loses at most 1 point against student: prune-global-unstructured-conv, 270 kB at −0.5 points"
    )


def test_files_hold_spreads_methods_seeds_and_zeros(study):
    view = study({"student": (0.7, 0), "ptq": (0.6, 2)}, seeds=(0.01, 0.0, -0.01))
    student, ptq = json.loads(study_data(view).json())
    assert ptq["accuracy"] == pytest.approx(0.6) and ptq["accuracy_sd"] == pytest.approx(0.01)
    assert ptq["method"] == "ptq" and ptq["seeds"] == "0 1 2" and ptq["runs"] == 3
    for key in ("size", "packed", "efficiency", "latency", "zeros", "params", "macs"):
        assert {key, f"{key}_sd"} <= ptq.keys()
    assert ptq["zeros"] is None and student["size_sd"] == 0.0


def test_cuts_that_are_the_same_are_said(study):
    rows = {"student": (0.7, 0), "prune-global-structured-dense": (0.69, 3)}
    assert "same cuts" not in study_table(study({**rows, f"{BOTH}dense": (0.68, 2)})).text()


def test_cuts_that_coincide_are_said_so(study):
    rows = {"student": (0.7, 0), "prune-global-structured-dense": (0.69, 3), f"{BOTH}dense": (0.69, 3)}
    words = "are the same cuts: one dense layer alone may lose channels"
    assert words in study_table(study(rows)).text()


def test_of_the_chains_of_one_size_the_most_accurate_is_named(study):
    rows = {"student": (0.7, 0), "distill-prune-quantize": (0.695, 6), "prune-distill-quantize": (0.699, 6)}
    told = findings(study(rows))[3].numbers
    assert "the smallest of them is prune-distill-quantize, 8.5× smaller at −0.1 points" in told
    assert told.endswith("distill-prune-quantize is 8.5× smaller at −0.5 points")


@pytest.mark.parametrize(
    ("more", "verdict"), [({}, "does not hold"), ({"distilled-assistant-longer": (0.77, 0)}, "holds")]
)
def test_students_that_are_taught_equally_long_decide_about_assistants(study, more, verdict):
    rows = {"student": (0.7, 0), "teacher": (0.75, 0), "distilled": (0.71, 0)}
    found = findings(study({**rows, "distilled-assistant": (0.66, 0), **more}))[1]
    assert found.verdict == verdict
    told = ["distilled-assistant 66.00 % in", "distilled 71.00 % in"]
    told = [f"{name} 77.00 % in" for name in more] + told
    assert [found.numbers.index(words) for words in told] == sorted(map(found.numbers.index, told))


def test_what_lies_within_the_spread_is_undecided(study):
    rows = {"student": (0.7, 0), "teacher": (0.75, 0), "distilled": (0.71, 0)}
    near = study({**rows, "distilled-assistant": (0.712, 0)}, seeds=(0.01, 0.0, -0.01))
    assert verdicts(near)[1] == "undecided"
    assert near.row("student").condition.accuracy.runs == 3


def test_seeds_count_once_all_of_their_cells_are_done(study, tmp_path):
    study({"student": (0.7, 0), "ptq": (0.7, 4)}, seeds=(0.0, -0.1))
    record = json.loads((tmp_path / "study.json").read_text())
    record["cells"][-1] |= {"status": "not started", "run": None}
    (tmp_path / "study.json").write_text(json.dumps(record))
    view = StudyView.read(tmp_path)
    for name in ("student", "ptq"):
        assert view.row(name).condition.accuracy.value == pytest.approx(0.7)
    assert study_table(view).text().count("finished, not started") == 1


def test_rows_are_never_means_over_different_seeds(study, tmp_path):
    study({"student": (0.7, 0), "qat": (0.7, 4)}, seeds=(0.0, -0.1, -0.2))
    record = json.loads((tmp_path / "study.json").read_text())
    for place, status in ((0, "failed"), (4, "refused"), (5, "not started")):  # student, seed 0; qat, 1 and 2
        record["cells"][place] |= {"status": status, "run": None, "reason": "busy"}
    (tmp_path / "study.json").write_text(json.dumps(record))
    view = StudyView.read(tmp_path)  # no seed has both rows: of seed 0, as of the others, there is one
    assert view.row("student") is None and view.row("qat").condition.accuracy.runs == 1
    record["cells"][4] |= {"status": "finished", "run": "qat-1", "reason": None}
    (tmp_path / "study.json").write_text(json.dumps(record))
    for name in ("student", "qat"):
        assert StudyView.read(tmp_path).row(name).condition.accuracy.value == pytest.approx(0.6)


def test_what_was_not_measured_is_said(study):
    view = study({"student": (0.7, 0)}, ptq="too few")
    assert verdicts(view) == ["not measured"] * 4
    said = study_table(view).text()
    assert "refused" in said and findings_table(view).rows
    assert "too few" in study_page(view, {})
    assert methods_chart(view) is not None


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(DataError):
        StudyView.read(tmp_path)
    (tmp_path / "study.json").write_text("[]")
    with pytest.raises(CorruptArtifact, match="does not hold a study"):
        StudyView.read(tmp_path)
