"""What OpenVINO leaves behind in the process that used it."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
from torch import nn

from kezuri.runtime.export import export_onnx

SIGNALLED = """
import gc, signal, sys
from pathlib import Path
from kezuri.runtime.runners.openvino import OpenVino

first = OpenVino().prepare(Path(sys.argv[1]))
second = OpenVino().prepare(Path(sys.argv[1]))
del first
del second
gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("heard"))
signal.raise_signal(signal.SIGUSR1)
"""


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_a_signal_is_heard_after_two_sessions_that_lived_at_once(tmp_path):
    file = tmp_path / "model.onnx"
    export_onnx(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (3, 8, 8), file)
    command = [sys.executable, "-c", SIGNALLED, str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "heard\n", "")
