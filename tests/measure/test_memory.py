from pathlib import Path

import numpy as np
import pytest

from kezuri.core.errors import DataError, UsageError
from kezuri.measure.memory import peak_memory

SHAPE = (10, 10, 10)
WEIGHTS = 16_000_000


def test_the_weights_are_in_it_and_this_process_is_not(onnx_file: Path) -> None:
    ballast = np.ones(60_000_000, dtype=np.float32)
    measured = peak_memory(onnx_file, SHAPE, repeats=1)
    assert ballast.nbytes == 240_000_000
    assert WEIGHTS < measured.value < 5 * WEIGHTS
    assert (measured.metric, measured.unit, measured.samples) == ("memory", "bytes", 1)
    assert measured.conditions == {"runtime": "onnxruntime", "threads": 1, "batch": 1}


def test_the_images_and_answers_of_a_batch_are_in_it(onnx_file: Path) -> None:
    images = 3000
    assert peak_memory(onnx_file, SHAPE, batch=images, repeats=1).value > WEIGHTS + images * (1000 + 4000) * 4


def test_the_spread_is_that_of_the_repeats(onnx_file: Path) -> None:
    measured = peak_memory(onnx_file, SHAPE, repeats=2)
    assert measured.samples == 2
    assert measured.low <= measured.value <= measured.high


def test_what_cannot_be_run_is_named(onnx_file: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.onnx").write_bytes(b"torn")
    with pytest.raises(DataError, match=r"torn\.onnx could not be run"):
        peak_memory(tmp_path / "torn.onnx", SHAPE)
    with pytest.raises(DataError, match=r"images of \[1, 3, 2, 2\]"):
        peak_memory(onnx_file, (3, 2, 2))
    with pytest.raises(DataError, match=r"no file .*absent\.onnx"):
        peak_memory(tmp_path / "absent.onnx", SHAPE)
    with pytest.raises(UsageError, match="onnxruntime or openvino, got 'torch'"):
        peak_memory(onnx_file, SHAPE, runtime="torch")


def test_in_openvino_too(onnx_file: Path) -> None:
    pytest.importorskip("openvino")
    measured = peak_memory(onnx_file, SHAPE, runtime="openvino", repeats=1)
    assert measured.value > WEIGHTS and measured.conditions["runtime"] == "openvino"
