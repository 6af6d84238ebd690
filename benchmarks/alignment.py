"""Cut networks in integers: what widths that suit no kernel cost, and what channels of zeros bring back.

    python benchmarks/alignment.py [--models resnet18,mobilenet_v2,resnet20]

Networks lose a share of their channels across all layers (scope "global", L2), once to any width and once to
multiples of eight (`round_to`), and are quantized. The file is written without and with channels of zeros
(`Quantized.export(aligned=…)`); both answer the same. ONNX Runtime on one thread, all files in turns in one
process with the dense network in floats; processor time, medians, 10th to 90th percentile. Weights are
random, which does not matter to time. MobileNetV2 is that of torchvision, where installed.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from quantize import SIDES, answers, installed, network, row
from record import record

from kezuri import export_onnx
from kezuri.measure.latency import compare_latency
from kezuri.quantization.quantize import quantize
from kezuri.recipe.prune_channels import prune_channels
from kezuri.runtime.runners.onnxruntime import OnnxRuntime

SHARES = {"mobilenet_v2": 0.3}
SHARE = 0.5
IMAGES = 8


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="resnet18,mobilenet_v2,resnet20")
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    findings = {}
    for name in installed(options.models):
        for multiple in (1, 8):
            title = f"{name}, {SHARES.get(name, SHARE):.0%} of the channels cut, round_to {multiple}"
            findings[title] = found = measured(name, multiple, options)
            print(f"\n{title}")
            for key, value in found.items():
                print(f"  {key:<42} {value}")
    print(record("alignment", findings, threads=1, images=IMAGES))


def measured(name: str, multiple: int, options: argparse.Namespace) -> dict[str, Any]:
    side = SIDES.get(name, 224)
    shape, model = (3, side, side), network(name, side)
    images = torch.randn(IMAGES, *shape)
    cut = prune_channels(model, images[:2], SHARES.get(name, SHARE), round_to=multiple).model
    quantized = quantize(cut, images)
    with TemporaryDirectory() as folder:
        files = {
            "dense": export_onnx(model, shape, Path(folder) / "dense.onnx"),
            "cut": export_onnx(cut, shape, Path(folder) / "cut.onnx"),
            "integers": quantized.export(Path(folder) / "integers.onnx", aligned=False),
            "aligned": quantized.export(Path(folder) / "aligned.onnx"),
        }
        sessions = {title: OnnxRuntime().prepare(path) for title, path in files.items()}
        raced = compare_latency(sessions, shape, calls=options.calls, budget_seconds=options.seconds)
        sizes = {title: path.stat().st_size for title, path in files.items()}
        off = float((answers(files["integers"], images) - answers(files["aligned"], images)).abs().max())
    found: dict[str, Any] = {"dense ms": row(raced.latencies["dense"])}
    for title in ("cut", "integers", "aligned"):
        found[f"{title}: times faster than dense"] = row(raced.speedups[title])
        found[f"{title}: bytes of dense's"] = round(sizes[title] / sizes["dense"], 4)
    faster = raced.latencies["integers"].value / raced.latencies["aligned"].value
    found["aligned / integers: times faster"] = round(faster, 3)
    found["aligned / integers: bytes"] = round(sizes["aligned"] / sizes["integers"], 4)
    found["largest difference of their answers"] = off
    return found


if __name__ == "__main__":
    main()
