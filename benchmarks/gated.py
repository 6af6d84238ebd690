"""SiLU, hard-swish and squeeze-and-excite in integers: what they cost in accuracy, and save in time.

    python benchmarks/gated.py [--epochs 3] [--seeds 3]

For accuracy, networks of inverted residuals with gates (Howard et al., 2019; Tan and Le, 2019) are trained on
the bundled images and quantized from training images: activations and gates in floats, activations alone in
integers, both. Accuracies are on the test images, looked at once a row. For time, MobileNetV3 and
EfficientNet-B0 of torchvision at 224, where installed, are quantized in the same three ways, and by ONNX
Runtime's own quantizer; ONNX Runtime on one thread, in turns, processor time.
"""

import argparse
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from quantize import ort_static, row
from record import record, spread
from torch import Tensor, nn

from kezuri import Training, evaluate, export_onnx, fit, load_data, quantize
from kezuri.data import Data
from kezuri.measure.latency import compare_latency
from kezuri.model.load import ModelSpec, load_model
from kezuri.runtime.kernels import kernels, told
from kezuri.runtime.runners.onnxruntime import OnnxRuntime

WAYS: Mapping[str, dict[str, bool]] = {
    "both in floats": {"swish": False, "gates": False},
    "activations in integers": {"swish": True, "gates": False},
    "both in integers": {"swish": True, "gates": True},
}
ACTIVATIONS: Mapping[str, type[nn.Module]] = {"hard-swish": nn.Hardswish, "SiLU": nn.SiLU}
TIMED = ("mobilenet_v3_large", "mobilenet_v3_small", "efficientnet_b0")
SHAPE = (3, 224, 224)
IMAGES = 24


class Inverted(nn.Module):
    """Widened, filtered channel by channel, gated, narrowed, and added to what came in."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, act: type[nn.Module]) -> None:
        super().__init__()
        wide = 4 * inputs
        gate = nn.Hardsigmoid() if act is nn.Hardswish else nn.Sigmoid()
        between = nn.ReLU() if act is nn.Hardswish else act()
        self.widen = nn.Sequential(
            *conv(inputs, wide, 1), act(), *conv(wide, wide, kernel, stride, wide), act()
        )
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(wide, wide // 4, 1),
            between,
            nn.Conv2d(wide // 4, wide, 1),
            gate,
        )
        self.narrow = nn.Sequential(*conv(wide, outputs, 1))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        wide = self.widen(x)
        found = self.narrow(wide * self.gate(wide))
        return x + found if self.adds else found


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(outputs)]


def network(act: type[nn.Module], channels: int, classes: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        *conv(channels, 16, 3),
        act(),
        Inverted(16, 24, 3, 2, act),
        Inverted(24, 24, 3, 1, act),
        Inverted(24, 40, 5, 2, act),
        Inverted(40, 40, 5, 1, act),
        *conv(40, 160, 1),
        act(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(160, classes),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="fashion-mini")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(options.data, root=options.root)
    accuracies: dict[str, list[float]] = {}
    for seed in range(options.seeds):
        for title, accuracy in trained(data, options.epochs, seed):
            accuracies.setdefault(title, []).append(accuracy)
    for title, found in accuracies.items():
        print(f"  {title:<50} {spread(found)} %")
    times: dict[str, dict[str, Any]] = {}
    for name in TIMED if find_spec("torchvision") else ():
        times[name] = timed(name, options)
        print(f"\n{name}")
        for title, value in times[name].items():
            print(f"  {title:<50} {value}")
    settings = {"epochs": options.epochs, "seeds": options.seeds, "data": options.data, "images": IMAGES}
    print(record("gated", {"accuracy": accuracies, "times": times}, **settings))


def trained(data: Data, epochs: float, seed: int) -> list[tuple[str, float]]:
    """Test accuracy of each network, in floats and in integers of each way."""
    assert data.test is not None
    found = []
    for name, act in ACTIVATIONS.items():
        model = network(act, data.image_shape[0], len(data.classes), seed)
        fit(model, data, Training(epochs=epochs, lr=0.05, batch_size=64), seed=seed)
        found.append((name, evaluate(model, data.test).accuracy))
        for way, settings in WAYS.items():
            quantized = quantize(model, data, seed=seed, **settings).model
            found.append((f"{name}: {way}", evaluate(quantized, data.test).accuracy))
    return found


def timed(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """How much faster than the file in floats each way is, and where the time of the last goes."""
    model = load_model(ModelSpec(f"torchvision:{name}", {}), classes=1000, image_shape=SHAPE, seed=0).train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, *SHAPE))
    model.eval()
    images = torch.randn(IMAGES, *SHAPE)
    with TemporaryDirectory() as folder:
        plain = export_onnx(model, SHAPE, Path(folder) / "plain.onnx")
        files = {
            way: quantize(model, images, **settings).export(Path(folder) / f"{at}.onnx")
            for at, (way, settings) in enumerate(WAYS.items())
        }
        files["ONNX Runtime's quantizer"] = Path(folder) / "ort.onnx"
        ort_static(model, images, files["ONNX Runtime's quantizer"])
        sessions = {"": OnnxRuntime().prepare(plain)}
        sessions |= {way: OnnxRuntime().prepare(path) for way, path in files.items()}
        raced = compare_latency(sessions, SHAPE, calls=options.calls, budget_seconds=options.seconds)
        found: dict[str, Any] = {"ms in floats": row(raced.latencies[""])}
        found |= {f"times faster: {way}": row(raced.speedups[way]) for way in files}
        found |= {f"of the time: {way}": told(kernels(path, SHAPE)) for way, path in files.items()}
    return found


if __name__ == "__main__":
    main()
