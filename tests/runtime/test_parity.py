import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from kezuri.core.errors import DataError, ParityFailed
from kezuri.data import TensorPart
from kezuri.runtime.parity import Parity, check_parity

IDENTITY = nn.Flatten()


def test_an_export_agrees_with_its_model(model: nn.Module, onnx_file: Path, part: TensorPart) -> None:
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parity = check_parity(model, onnx_file, part)
    assert parity.agreement == 1
    assert 0 < parity.max_error < 1e-4
    assert parity.samples == 300
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_only_the_first_images_are_compared_on_request(
    model: nn.Module, onnx_file: Path, part: TensorPart
) -> None:
    assert check_parity(model, onnx_file, part, limit=7).samples == 7
    assert check_parity(model, onnx_file, part, limit=290).samples == 290
    with pytest.raises(DataError, match="no images"):
        check_parity(model, onnx_file, part, limit=0)


def test_one_changed_weight_is_noticed(
    model: nn.Module, onnx_file: Path, part: TensorPart, tmp_path: Path
) -> None:
    proto = onnx.load(onnx_file)
    weight = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] += 1
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(proto, tmp_path / "changed.onnx")
    with pytest.raises(ParityFailed, match=r"same top class on .* of 300 images .* first at image \d+"):
        check_parity(model, tmp_path / "changed.onnx", part)


def test_another_model_of_the_same_shape_is_noticed(
    model: nn.Module, onnx_file: Path, part: TensorPart
) -> None:
    model.linear.bias.data[3] += 1e3
    try:
        with pytest.raises(ParityFailed, match="logits off by up to 1e"):
            check_parity(model, onnx_file, part)
    finally:
        model.linear.bias.data[3] -= 1e3


def add(path: Path, shift: list[float]) -> Path:
    """An ONNX file that adds `shift` to three logits."""
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Flatten", ["images"], ["flat"]),
            onnx.helper.make_node("Add", ["flat", "shift"], ["logits"]),
        ],
        "add",
        [onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["batch", 3, 1, 1])],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.array(shift, dtype=np.float32), "shift")],
    )
    opset = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def logits(*rows: list[float]) -> TensorPart:
    return TensorPart(
        torch.tensor(rows)[:, :, None, None], torch.zeros(len(rows), dtype=torch.int64), classes=3
    )


def test_a_near_tie_may_fall_either_way(tmp_path: Path) -> None:
    swapped = add(tmp_path / "m.onnx", [0, 4e-6, 0])
    assert check_parity(IDENTITY, swapped, logits([1, 1 - 2e-6, 0], [1, 0, 0])).agreement == 1


def test_a_clear_answer_may_not_change_even_within_the_tolerance(tmp_path: Path) -> None:
    swapped = add(tmp_path / "m.onnx", [0, 9e-4, 0])
    part = logits([1, 0, 0], [1, 1 - 5e-4, 0])
    with pytest.raises(ParityFailed, match=r"same top class on 50\.00%.*first at image 1$"):
        check_parity(IDENTITY, swapped, part)
    assert check_parity(IDENTITY, swapped, part, min_agreement=0.5) == Parity(
        0.5, pytest.approx(9e-4, rel=1e-3), 2
    )


def test_logits_may_be_off_by_a_thousandth_of_the_largest(tmp_path: Path) -> None:
    part = logits([2, 0, 1], [0, 0, -1])
    assert check_parity(IDENTITY, add(tmp_path / "m.onnx", [0, 0, 1.9e-3]), part).agreement == 1
    with pytest.raises(ParityFailed, match=r"off by up to 0\.0021 \(allowed 0\.002\); first at image 0"):
        check_parity(IDENTITY, add(tmp_path / "m.onnx", [0, 0, 2.1e-3]), part)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_that_are_not_finite_fail(tmp_path: Path, number: float) -> None:
    with pytest.raises(ParityFailed, match="off by up to inf"):
        check_parity(IDENTITY, add(tmp_path / "m.onnx", [0, 0, number]), logits([2, 0, 1]))
    with pytest.raises(ParityFailed, match="PyTorch model answers"):
        check_parity(IDENTITY, add(tmp_path / "m.onnx", [0, 0, 0]), logits([number, 0, 1]))


def test_answers_of_another_shape_fail(tmp_path: Path) -> None:
    with pytest.raises(ParityFailed, match=re.escape("answers (1, 3), PyTorch (1, 2)")):
        check_parity(
            nn.Sequential(nn.Flatten(), nn.Linear(3, 2)),
            add(tmp_path / "m.onnx", [0, 0, 0]),
            logits([1, 0, 0]),
        )


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*m\.onnx"):
        check_parity(IDENTITY, tmp_path / "m.onnx", logits([1, 0, 0]))


def test_as_measurements() -> None:
    agreement, error = Parity(0.5, 0.25, 8).measurements()
    assert (agreement.metric, agreement.value, agreement.unit, agreement.samples) == (
        "parity_agreement",
        0.5,
        "fraction",
        8,
    )
    assert (error.metric, error.value, error.unit) == ("parity_error", 0.25, "absolute")
