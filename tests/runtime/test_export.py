import logging
import signal
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from kezuri.core.errors import ModelError, ResourceError
from kezuri.model.program import as_program
from kezuri.runtime.export import export_onnx
from kezuri.runtime.runners.onnxruntime import OnnxRuntime
from kezuri.runtime.sliced import SliceableExport

SHAPE = (3, 16, 16)


class Eigenvalues(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(x).abs().flatten(1)


class Undecided(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


def test_the_file_is_valid_and_takes_any_number_of_images(onnx_file: Path) -> None:
    proto = onnx.load(onnx_file)
    onnx.checker.check_model(proto, full_check=True)
    (images,), (logits,) = proto.graph.input, proto.graph.output
    assert (images.name, logits.name) == ("images", "logits")
    assert images.type.tensor_type.shape.dim[0].dim_param
    assert [dim.dim_value for dim in images.type.tensor_type.shape.dim[1:]] == list(SHAPE)
    session = OnnxRuntime().prepare(onnx_file)
    for count in (1, 2, 5):
        assert session.run(np.zeros((count, *SHAPE), dtype=np.float32)).shape == (count, 10)


def test_weights_are_inside_and_nothing_else_is_written(onnx_file: Path) -> None:
    assert [path.name for path in onnx_file.parent.iterdir()] == ["model.onnx"]
    assert not any(
        tensor.external_data for tensor in onnx.load(onnx_file, load_external_data=False).graph.initializer
    )


def test_the_file_says_nothing_about_the_machine_it_was_made_on(onnx_file: Path) -> None:
    content = onnx_file.read_bytes()
    assert b".py" not in content
    assert str(Path.cwd()).encode() not in content
    assert b"stack_trace" not in content


def test_batch_normalisation_is_folded(onnx_file: Path) -> None:
    operations = {node.op_type for node in onnx.load(onnx_file).graph.node}
    assert "Conv" in operations
    assert "BatchNormalization" not in operations


def test_exporting_is_quiet_and_leaves_the_model_and_the_random_state_alone(
    model: nn.Module, onnx_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model.train()
    model.layer1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    state, level = torch.get_rng_state(), logging.getLogger("torch.onnx").level
    again = export_onnx(model, SHAPE, tmp_path / "again.onnx")
    assert capfd.readouterr() == ("", "")
    assert (model.training, model.layer1.training) == (True, False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert logging.getLogger("torch.onnx").level == level
    assert again.read_bytes() == onnx_file.read_bytes()


@pytest.mark.parametrize(
    ("broken", "told"), [(Eigenvalues(), r"aten\.\w*eig\w*"), (Undecided(), "data-dependent|Eq|guard")]
)
def test_what_cannot_be_exported_is_named(tmp_path: Path, broken: nn.Module, told: str) -> None:
    with pytest.raises(ModelError, match=f"cannot be exported to ONNX: .*({told})"):
        export_onnx(broken, (1, 4, 4), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResourceError, match="cannot write"):
        export_onnx(nn.Flatten(), (1, 2, 2), tmp_path / "file" / "model.onnx")


class Pressed(nn.Module):
    """Ctrl-C is pressed while it is gone through."""

    def __init__(self, presses: int) -> None:
        super().__init__()
        self.presses, self.last = presses, nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while self.presses:
            self.presses -= 1
            signal.raise_signal(signal.SIGINT)
        return self.last(x.mean((2, 3)))


@pytest.mark.parametrize("presses", [1, 2])
@pytest.mark.parametrize(
    "export",
    [
        export_onnx,
        lambda model, shape, _: SliceableExport(model, shape),
        lambda model, shape, _: as_program(model, (torch.zeros(2, *shape),)),
    ],
)
def test_ctrl_c_is_neither_lost_nor_taken_for_a_fault_of_the_model(export, presses, tmp_path) -> None:  # type: ignore[no-untyped-def]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            export(Pressed(presses), SHAPE, tmp_path / "model.onnx")
        assert not (tmp_path / "model.onnx").exists()
    finally:
        signal.signal(signal.SIGINT, before)
