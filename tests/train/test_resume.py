"""kill -9 at random moments, again and again: the training ends as if nothing had happened."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("train_and_kill.py")


@pytest.mark.parametrize("kills", [6, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_and_resumed_the_weights_are_bit_identical(tmp_path, kills) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(SCRIPT), str(tmp_path), str(kills)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    resumes = [int(line) for line in (tmp_path / "resumes.txt").read_text().split()]
    assert len(resumes) == kills + 1 and resumes[0] == 0
    assert sum(step > 0 for step in resumes) >= kills // 2  # the kills came after something was saved
    whole, resumed = ((tmp_path / f"{name}.safetensors").read_bytes() for name in ("whole", "resumed"))
    assert whole == resumed
    assert len(list((tmp_path / "checkpoints").iterdir())) == 4
