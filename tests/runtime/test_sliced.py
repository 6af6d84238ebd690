from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from kezuri.core.errors import ModelError
from kezuri.model.coupling import couple
from kezuri.model.proof import cut
from kezuri.model.shrink import Structure
from kezuri.runtime.export import export_onnx
from kezuri.runtime.runners.onnxruntime import OnnxRuntime
from kezuri.runtime.sliced import SliceableExport

SHAPE = (3, 16, 16)


class Eigenvalues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x).abs().flatten(1)


def answers(path: Path) -> np.ndarray:
    images = np.random.default_rng(0).standard_normal((3, *SHAPE), dtype=np.float32)
    return OnnxRuntime().prepare(path).run(images)


def operations(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_one_export_gives_what_exporting_every_cut_model_would(model: nn.Module, tmp_path: Path) -> None:
    couplings = couple(model, torch.zeros(2, *SHAPE))
    export = SliceableExport(model, SHAPE)
    whole = export_onnx(model, SHAPE, tmp_path / "whole.onnx")
    found = export.write(Structure(), tmp_path / "found.onnx")
    assert operations(found) == operations(whole)
    np.testing.assert_allclose(answers(found), answers(whole), rtol=1e-4, atol=1e-5)
    for names in (["conv1"], ["layer2.0.conv1", "layer3.0.conv1"]):
        kept = {name: torch.arange(couplings.named(name).width) % 2 == 0 for name in names}
        done = cut(model, couplings, kept, torch.zeros(2, *SHAPE))
        wanted = export_onnx(done.model, SHAPE, tmp_path / "wanted.onnx")
        found = export.write(done.structure, tmp_path / "found.onnx")
        assert operations(found) == operations(wanted)
        assert found.stat().st_size < whole.stat().st_size
        np.testing.assert_allclose(answers(found), answers(wanted), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_exported_is_named() -> None:
    with pytest.raises(ModelError, match="eig"):
        SliceableExport(Eigenvalues(), SHAPE)


def test_the_model_stays_as_it_was(model: nn.Module) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    SliceableExport(model.train(), SHAPE)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
