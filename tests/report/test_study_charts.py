"""The pictures of a study: what is drawn, how it is told apart, and what they say."""

import json

import pytest

from kezuri.report.plots import png, spec
from kezuri.report.study import StudyView
from kezuri.report.study_charts import study_charts

PLAN = {"data": "mnist", "epochs": 4, "seeds": 1}
METHODS = {"student": "baseline", "student-longer": "baseline", "teacher": "teacher", "ptq": "ptq"}


@pytest.fixture
def study(make_run, tmp_path):
    cells = []
    rows = {"student": (0.7, 0), "student-longer": (0.71, 0), "teacher": (0.8, 0), "ptq": (0.705, 4)}
    for name, (right, rounds) in {**rows, "a-b-c": (0.69, 8)}.items():
        make_run(name, name=name, rounds=rounds + 1, rolled_back=(), accuracy=right + 0.002, drop=0.0)
        said = {"name": name, "method": METHODS.get(name, "chain"), "seed": 0, "epochs": 4}
        cells.append({**said, "status": "finished", "run": name, "reason": None})
    (tmp_path / "study.json").write_text(json.dumps({"plan": PLAN, "cells": cells}))
    return StudyView.read(tmp_path)


def words(chart):
    return {
        row["words"]
        for layer in chart["layer"]
        for row in layer.get("data", {}).get("values", [])
        if "words" in row
    }


def test_rows_are_told_apart_by_their_family_and_the_student_is_named(study):
    charts = {name: spec(chart) for name, chart in study_charts(study).items()}
    assert list(charts) == ["methods", "pareto", "latency"]
    for name in ("pareto", "latency"):
        colours = json.dumps(charts[name])
        assert all(family in colours for family in ("trained", "8 bits", "all three"))
        assert {"student", "student-longer"} <= words(charts[name])


def test_titles_say_which_is_smallest_and_fastest_and_axes_their_scale(study):
    charts = {name: spec(chart) for name, chart in study_charts(study).items()}
    for name, start in (("pareto", "Smallest"), ("latency", "Fastest")):
        title = charts[name]["title"]["text"]
        title = title if isinstance(title, str) else " ".join(title)
        assert title.startswith(f"{start} that loses at most 1 point against student-longer: ptq, ")
    assert '"size (kB, log scale)"' in json.dumps(charts["pareto"])
    assert '"latency (ms)"' in json.dumps(charts["latency"])


def test_they_become_pictures(study):
    for chart in study_charts(study).values():
        assert png(chart).startswith(b"\x89PNG")
