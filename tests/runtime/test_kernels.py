import pytest
import torch
from torch import nn

from kezuri import export_onnx, quantize
from kezuri.core.errors import DataError, UsageError
from kezuri.runtime.kernels import Kernel, kernels, shares, told

SHAPE = (3, 8, 8)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Hardswish(), nn.Flatten(), nn.Linear(128, 5)
    ).eval()


def counts(found):
    return {one.name: one.count for one in found}


def test_a_float_file_runs_in_floats(model, tmp_path):
    found = kernels(export_onnx(model, SHAPE, tmp_path / "model.onnx"), SHAPE, calls=3)
    groups = shares(found)
    assert sum(counts(found)[name] for name in ("Conv", "FusedConv") if name in counts(found)) == 2
    assert groups["integers"] == groups["conversions"] == 0 and groups["floats"] == pytest.approx(1)


def test_what_stays_in_floats_is_seen_beside_integers_and_conversions(model, tmp_path):
    path = quantize(model, torch.randn(8, *SHAPE), swish=False).export(tmp_path / "model.onnx")
    found = kernels(str(path), SHAPE, calls=3)
    assert counts(found)["QLinearConv"] == 2 and counts(found)["QGemm"] == 1
    assert any(one.group == "floats" and one.name.startswith("Hard") for one in found)
    groups = shares(found)
    assert all(share > 0 for share in groups.values()) and sum(groups.values()) == pytest.approx(1)
    assert [one.share for one in found] == sorted((one.share for one in found), reverse=True)
    assert told(found).startswith("integers ") and "2 QLinearConv" in told(found)


def test_what_only_moves_counts_by_what_it_moves():
    assert Kernel("Reshape int8", 1, 0.5).group == "integers"
    assert Kernel("Reshape", 1, 0.5).group == "floats"


def test_files_that_cannot_run_and_no_calls_are_refused(model, tmp_path):
    path = export_onnx(model, SHAPE, tmp_path / "model.onnx")
    with pytest.raises(DataError, match="cannot run"):
        kernels(path, (5, 8, 8))
    with pytest.raises(DataError, match="cannot run"):
        kernels(tmp_path / "none.onnx", SHAPE)
    with pytest.raises(UsageError, match="got 0"):
        kernels(path, SHAPE, calls=0)
