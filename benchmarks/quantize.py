"""INT8 from PyTorch: how fast the file runs, how large it is, and how long it takes to make.

    python benchmarks/quantize.py [--models resnet20,resnet18,resnet50,mobilenet_v2,vit_small]

Each network is quantized after training by Kezuri and by its peers from the same 24 images: ONNX Runtime's
`quantize_static` (QDQ, uint8 activations, int8 weights a channel, after its own pre-processing) and NNCF,
where installed. All files run in ONNX Runtime on one thread, in turns in one process; processor time,
medians, 10th to 90th percentile. Making a file is timed from the PyTorch model to the file, the export
included on all sides, in turns too, after a round that does not count. Weights are random, with the
statistics of batch normalisation filled in, which does not matter to time. MobileNetV2 and ViT-S are those of
torchvision and timm, where installed. ResNet-18 is also cut to half of its channels first.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import torch
from payoff import resnet18
from record import record
from resnet50 import resnet50
from torch import Tensor, nn

from kezuri import export_onnx
from kezuri.core.measurement import Measurement
from kezuri.measure.latency import compare_latency
from kezuri.model.load import ModelSpec, load_model
from kezuri.quantization.quantize import quantize
from kezuri.recipe.prune_channels import prune_channels
from kezuri.runtime.kernels import Kernel, kernels, told
from kezuri.runtime.runners.onnxruntime import OnnxRuntime

IMAGES = 24
SIDES = {"resnet20": 32}
NEEDED = {"mobilenet_v2": "torchvision", "vit_small": "timm"}
REFERENCES = {"mobilenet_v2": "torchvision:mobilenet_v2", "vit_small": "timm:vit_small_patch16_224"}


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    findings = {}
    for name in installed(options.models):
        findings[name] = found = measured(name, options)
        print(f"\n{name}")
        for key, value in found.items():
            print(f"  {key:<42} {value}")
    print(record("quantize", findings, images=IMAGES, threads=1, makes=options.makes))


def installed(models: str) -> Iterator[str]:
    """The names of those whose package is there; says which others there are."""
    for name in models.split(","):
        if name in NEEDED and find_spec(NEEDED[name]) is None:
            print(f"{name}: {NEEDED[name]} is not installed")
        else:
            yield name


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="resnet20,resnet18,resnet50,mobilenet_v2,vit_small")
    parser.add_argument("--peers", default="ort,nncf")
    parser.add_argument("--makes", type=int, default=3, help="times that each file is made")
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=40.0)
    return parser.parse_args()


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one network."""
    side = SIDES.get(name, 224)
    shape, model = (3, side, side), network(name, side)
    images = torch.randn(IMAGES, *shape)
    wanted = {
        "ours": ours,
        **{peer: PEERS[peer] for peer in filter(None, options.peers.split(",")) if available(peer)},
    }
    if name == "resnet18":
        wanted["half of the channels cut, then ours"] = halved
    with TemporaryDirectory() as folder:
        files = {maker: Path(folder) / f"{maker}.onnx" for maker in wanted}
        seconds: dict[str, list[float]] = {maker: [] for maker in wanted}
        for turn in range(options.makes + 1):
            for maker, make in wanted.items():
                begin = time.process_time()
                make(model, images, files[maker])
                if turn:  # what is imported or compiled on first use does not count
                    seconds[maker].append(time.process_time() - begin)
        plain = export_onnx(model, shape, Path(folder) / "float.onnx")
        sessions = {"float": OnnxRuntime().prepare(plain)}
        sessions |= {maker: OnnxRuntime().prepare(path) for maker, path in files.items()}
        raced = compare_latency(sessions, shape, calls=options.calls, budget_seconds=options.seconds)
        expected = answers(plain, images)
        found: dict[str, Any] = {"float ms": row(raced.latencies["float"])}
        for maker, path in files.items():
            found[f"{maker}: times faster than float"] = row(raced.speedups[maker])
            found[f"{maker}: size of float's"] = round(path.stat().st_size / plain.stat().st_size, 4)
            found[f"{maker}: signal to noise dB"] = round(decibels(expected, answers(path, images)), 1)
            found[f"{maker}: seconds to make"] = [round(each, 2) for each in seconds[maker]]
            profile = kernels(path, shape)
            found[f"{maker}: products"] = products(profile)
            found[f"{maker}: of the time"] = told(profile)
        for maker in list(files)[1:]:
            ratios = [mine / theirs for mine, theirs in zip(seconds["ours"], seconds[maker], strict=True)]
            found[f"ours / {maker}: time to make"] = round(median(ratios), 3)
    return found


def network(name: str, side: int) -> nn.Module:
    """Untrained, with batch normalisation that has seen something."""
    torch.manual_seed(0)
    if name == "resnet18":
        model = resnet18()
    elif name == "resnet50":
        model = resnet50()
    else:
        spec = ModelSpec(REFERENCES.get(name, name), {})
        model = load_model(spec, classes=10 if side == 32 else 1000, image_shape=(3, side, side), seed=0)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 3, side, side))
    return model.eval()


def ours(model: nn.Module, images: Tensor, path: Path) -> None:
    quantize(model, images).export(path)


def halved(model: nn.Module, images: Tensor, path: Path) -> None:
    """Every coupling loses half of its channels first."""
    pruned = prune_channels(model, images[:2], 0.5, scope="local", round_to=8)
    quantize(pruned.model, images).export(path)


def ort_static(model: nn.Module, images: Tensor, path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(images.split(1))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.left, None)
            return None if batch is None else {"images": batch.numpy()}

    plain, ready = path.with_suffix(".plain.onnx"), path.with_suffix(".ready.onnx")
    export_onnx(model, tuple(images.shape[1:]), plain)  # type: ignore[arg-type]
    quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
    types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(str(ready), str(path), Reader(), per_channel=True, **types)


def nncf(model: nn.Module, images: Tensor, path: Path) -> None:
    import nncf as tool

    plain = path.with_suffix(".plain.onnx")
    export_onnx(model, tuple(images.shape[1:]), plain)  # type: ignore[arg-type]
    data = tool.Dataset(list(images.split(1)), lambda batch: {"images": batch.numpy()})
    onnx.save(tool.quantize(onnx.load(plain), data, subset_size=IMAGES), str(path))


PEERS: Mapping[str, Callable[[nn.Module, Tensor, Path], None]] = {"ort": ort_static, "nncf": nncf}


def available(peer: str) -> bool:
    return peer == "ort" or find_spec(peer) is not None


def answers(path: Path, images: Tensor) -> Tensor:
    session = OnnxRuntime().prepare(path)
    return torch.cat([torch.from_numpy(session.run(one.numpy())) for one in images.split(1)])


def decibels(expected: Tensor, found: Tensor) -> float:
    return float(10 * torch.log10(expected.var() / (expected - found).var()))


def products(found: tuple[Kernel, ...]) -> dict[str, int]:
    """What ONNX Runtime runs: products in integers, and those in floats."""
    plain = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
    integer = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat")
    counts = {one.name: one.count for one in found}
    groups = {"integer": integer, "float": plain}
    return {group: sum(counts.get(kind, 0) for kind in kinds) for group, kinds in groups.items()}


def row(found: Measurement) -> str:
    return f"{found.value:.4g} ({found.low:.4g} to {found.high:.4g})"


if __name__ == "__main__":
    main()
