"""Folders of runs that are half there, or not as they were written."""

import json
import shutil

import pytest

from kezuri.cli import bench
from kezuri.core.measurement import Measurement
from kezuri.measure.latency import Comparison


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize("command", ["resume", "report", "compare", "bench"])
def test_a_folder_that_holds_no_run(kezuri, tmp_path, command):
    (tmp_path / "empty").mkdir()
    for path in ("empty", "absent"):
        code, _, said = kezuri(command, path)
        assert code == 3 and "is not a run" in said


@pytest.mark.parametrize("content", ["{", "[]", '"text"', "\x00\x01"])
@pytest.mark.parametrize("name", ["recipe.json", "manifest.json"])
def test_a_file_that_cannot_be_read_is_named(kezuri, finished, name, content):
    (finished / name).write_text(content)
    for command in ("resume", "report", "compare"):
        code, _, said = kezuri(command, finished)
        assert code in (2, 3) and name in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("content", [b"[1]\n", b"{\n", b"\x80\x81"])
def test_measurements_that_are_none(kezuri, finished, content):
    with (finished / "measurements.jsonl").open("ab") as file:
        file.write(content)
    for command in ("report", "compare"):
        code, _, said = kezuri(command, finished)
        assert code == 3 and "measurements.jsonl" in said


def test_odd_entries_of_a_manifest_are_passed_over(kezuri, finished):
    odd = json.loads((finished / "manifest.json").read_text()) | {"decisions": 5, "cuts": 5, "answer": 5}
    (finished / "manifest.json").write_text(json.dumps(odd))
    assert kezuri("compare", finished)[0] == 0


def test_a_damaged_model_is_not_timed_and_is_made_again(kezuri, finished, ended):
    model = finished / "models" / "final" / "model.onnx"
    flip(model)
    code, _, said = kezuri("bench", finished)
    assert code == 3 and "changed since it was written" in said and "kezuri resume" in said
    code, _, said = kezuri("resume", finished)
    assert code == 0 and "made and measured again" in said
    assert model.read_bytes() == (ended / "models" / "final" / "model.onnx").read_bytes()
    assert kezuri("bench", finished, "--seconds", "0.2")[0] == 0


def test_a_report_says_which_file_changed(kezuri, finished):
    flip(finished / "models" / "final" / "model.safetensors")
    code, said, warned = kezuri("report", finished)
    assert code == 0 and said.endswith("report.html\n") and "final/model.safetensors: changed" in warned


def test_a_damaged_stage_comes_with_a_way_out(kezuri, finished):
    (finished / "models" / "final" / "model.onnx").unlink()  # so that there is something to do
    flip(finished / "stages" / "2-pcas" / "model" / "model.safetensors")
    code, _, said = kezuri("resume", finished)
    assert code == 3 and "is damaged" in said and f"remove the folders {finished}/stages/2-pcas*" in said


def test_a_changed_recipe_or_changed_data_is_not_gone_on_with(kezuri, finished):
    recipe = json.loads((finished / "recipe.json").read_text())
    (finished / "recipe.json").write_text(json.dumps(recipe | {"seed": 5}))
    code, _, said = kezuri("resume", finished)
    assert code == 2 and "its recipe.json changed since it began" in said
    recipe["data"]["validation"] = 0.3
    (finished / "recipe.json").write_text(json.dumps(recipe))
    code, _, said = kezuri("resume", finished)
    assert code == 2 and "its data changed since it began" in said


def test_comparisons_leave_out_what_is_no_run_but_not_what_is_absent(kezuri, finished, tmp_path):
    (tmp_path / "notes").mkdir()
    code, said, warned = kezuri("compare", finished, "notes")
    assert code == 0 and "small" in said and "notes is not a run; left out" in warned
    assert kezuri("compare", finished, "absent")[0] == 3
    assert kezuri("compare", finished, "--csv", "--json")[0] == 2
    assert kezuri("compare", finished, "--out", "page.png")[0] == 2
    assert kezuri("compare", finished, "--keep", "2")[0] == 2


def test_what_cannot_be_timed(kezuri, tmp_path, finished):
    (tmp_path / "text.onnx").write_text("hello")
    assert kezuri("bench", "text.onnx")[0] == 3
    assert kezuri("bench", "absent.onnx")[0] == 3
    for threads in ("0", "-1", "many", "99999", "²", "٣"):
        assert kezuri("bench", finished, "--threads", threads)[0] == 2


def test_two_folders_of_one_name_are_told_apart(kezuri, finished, tmp_path):
    for place in ("here", "there"):
        shutil.copytree(finished, tmp_path / place / "run")
    code, said, _ = kezuri("bench", "here/run", "there/run", "--seconds", "0.2")
    names = [line.split()[0] for line in said.splitlines() if "/run/" in line]
    assert code == 0
    assert names == ["here/run/dense", "here/run/final", "there/run/dense", "there/run/final"]
    single = kezuri("bench", "here/run", "--seconds", "0.2")[1]
    assert [line.split()[0] for line in single.splitlines()[2:4]] == ["dense", "final"]


def test_names_stay_whole_where_there_is_little_room(finished, monkeypatch):
    stamps = {f"a-long-name-of-a-run-{n}/final": finished / "models/final/model.onnx" for n in range(2)}
    one = Measurement("latency", 0.0123, "ms", 0.012, 0.014, 9)
    raced = Comparison(dict.fromkeys(stamps, one), dict.fromkeys(stamps, one))
    grid = bench.table_of(raced, stamps).fitting(76, gap=3)
    assert all(name in grid.text() for name in stamps) and grid.columns[-1].key == "speed_spread"


@pytest.mark.parametrize("command", ["compare", "resume", "bench"])
@pytest.mark.parametrize("record", ["study.json", "mask-study.json"])
def test_a_study_is_not_taken_for_a_damaged_run(kezuri, tmp_path, command, record):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / record).write_text("{}")
    code, _, said = kezuri(command, "mine")
    assert code == 3 and "mine is a study" in said and "`kezuri report` takes" in said


@pytest.mark.parametrize("plan", [{}, {"data": "mnist", "epochs": 1}])
def test_a_study_whose_plan_lacks_something_is_said(kezuri, tmp_path, plan):
    (tmp_path / "study.json").write_text(json.dumps({"plan": plan, "cells": []}))
    code, _, said = kezuri("report", ".")
    assert code == 3 and "study.json: its plan lacks" in said and "seeds" in said
