"""Number formats: float32 is quantized, all others are refused at once, by name."""

import pytest
import torch
from torch import Tensor, nn

from kezuri.core.errors import ModelError, UsageError
from kezuri.quantization.quantize import quantize
from kezuri.runtime.runner import runners

from .nets import SIDE, Net, noise, prepared, residual, seeded

X = noise(8, 3, SIDE, SIDE, seed=5)


def half_inside() -> nn.Module:
    return Net(lambda net, x: net.inner(x.half()).float(), inner=residual().half()).eval()


def changed(part: str, dtype: torch.dtype) -> nn.Module:
    model = residual()
    model.get_submodule(part).to(dtype)
    return model


def images_that_must_not_be_asked_for():
    raise AssertionError("the model is refused before any image is read")
    yield


REFUSED = {
    "float16": (lambda: residual().half(), "weights in float16 ('stem.0.weight' is the first of 11"),
    "bfloat16": (lambda: residual().bfloat16(), "weights in bfloat16 ("),
    "float64": (lambda: residual().double(), "weights in float64 ("),
    "half inside": (half_inside, "weights in float16 ('inner.stem.0.weight'"),
    "one layer": (lambda: changed("second", torch.bfloat16), "bfloat16 and float32 ('second.weight' is"),
    "one norm": (
        lambda: changed("norm", torch.float64),
        "float32 and float64 ('norm.weight' is the first of 2",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_formats_are_refused_before_any_image_is_read(name):
    build, message = REFUSED[name]
    model = build()
    with pytest.raises(ModelError) as caught:
        quantize(model, images_that_must_not_be_asked_for())
    assert message in str(caught.value) and "give model.float()" in str(caught.value)
    with pytest.raises(ModelError, match="takes models in float32"):
        prepared(model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_images_in_other_formats_are_refused(dtype):
    for given in (X.to(dtype), [X[:4], X[4:].to(dtype)]):
        with pytest.raises(UsageError, match=f"images in float32, got {str(dtype)[6:]}: give images.float"):
            quantize(residual(), given)


@torch.no_grad()
def test_a_model_made_float32_again_is_quantized():
    model = residual().double().float()
    result = quantize(model, X)
    assert (result.model(X) - model(X)).norm() < 0.05 * model(X).norm()


@torch.no_grad()
def test_constants_in_other_formats_are_no_hindrance(tmp_path):
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = residual()
            self.register_buffer("mean", torch.full((3, 1, 1), 0.25, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return self.inner((x - self.mean).float())

    result = quantize(seeded(Shifted), X)
    expected = result.model.eval()(X)
    file = result.export(tmp_path / "model.onnx")
    answer = torch.from_numpy(runners["onnxruntime"]().prepare(file).run(X.numpy()))
    assert (answer - expected).norm() < 0.02 * expected.norm()
