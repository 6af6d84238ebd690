"""The real command line, stopped by Ctrl-C, by kills and by a full disk: nothing is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kezuri.artifact.folder import RunFolder
from kezuri.artifact.journal import Journal

SCRIPT = Path(__file__).with_name("run_and_stop.py")
TIMED = ("latency", "speedup", "memory", "seconds", "phase_seconds")


@pytest.fixture(scope="module")
def stopped(recipe_text, tmp_path_factory):
    root = tmp_path_factory.mktemp("stop it")
    (root / "recipe.yaml").write_text(recipe_text)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, SCRIPT, root], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return root, json.loads((root / "said.json").read_text())


def folder_of(root, runs):
    (path,) = (root / runs).iterdir()
    return RunFolder(path)


def measured(folder):
    rows = (m.to_json() for m in Journal(folder.measurements).read() if m.metric not in TIMED)
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


@pytest.mark.parametrize("runs", ["ctrl c", "killed"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(stopped, ended, runs):
    root, said = stopped
    assert said[runs][-1]["code"] == 0, said[runs][-1]["err"]
    whole, other = RunFolder(ended), folder_of(root, runs)
    for name in ("dense/model.safetensors", "final/model.safetensors", "final/model.onnx"):
        assert (whole.path / "models" / name).read_bytes() == (other.path / "models" / name).read_bytes()
    assert measured(whole) == measured(other)


def test_ctrl_c_ends_with_130_and_the_command_that_goes_on(stopped):
    root, said = stopped
    stops = [one for one in said["ctrl c"] if one["code"] == 130]
    assert len(stops) == 5
    assert stops[0]["err"] == "kezuri: stopped\n"  # data and model were not loaded yet
    for one in stops[1:]:
        assert one["err"].splitlines()[-1] == (
            f"kezuri: stopped; nothing is lost, resume with: kezuri resume '{folder_of(root, 'ctrl c').path}'"
        )


def test_a_kill_needs_no_goodbye(stopped):
    assert [one["code"] for one in stopped[1]["killed"]] == [-9, -9, -9, 0]


def test_a_full_disk_ends_with_4_and_the_command_that_goes_on(stopped):
    full = stopped[1]["ctrl c"][0]
    assert full["code"] == 4
    assert "no room to write" in full["err"] and "resume with: kezuri resume" in full["err"]


def test_a_second_process_is_kept_out(stopped):
    second = next(one for one in stopped[1]["ctrl c"] if "another process" in one["err"])
    assert second["code"] == 2


def test_nothing_else_is_said_on_standard_error(stopped):
    for said in stopped[1].values():
        for one in said:
            assert "Traceback" not in one["err"]
            assert all(line.startswith(("kezuri: ", "warning: ")) for line in one["err"].splitlines())
