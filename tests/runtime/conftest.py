from pathlib import Path

import pytest
import torch
from torch import nn

from kezuri.data import TensorPart
from kezuri.model.load import load_model
from kezuri.runtime.export import export_onnx

SHAPE = (3, 16, 16)


@pytest.fixture(scope="session")
def part() -> TensorPart:
    images = torch.randn(300, *SHAPE, generator=torch.Generator().manual_seed(0))
    return TensorPart(images, torch.zeros(300, dtype=torch.int64), classes=10)


@pytest.fixture(scope="session")
def model(part: TensorPart) -> nn.Module:
    model = load_model("resnet8", classes=10, image_shape=SHAPE).train()
    with torch.no_grad():
        model(next(part.batches(128)).images)
    return model


@pytest.fixture(scope="session")
def onnx_file(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(model, SHAPE, tmp_path_factory.mktemp("exported") / "model.onnx")
