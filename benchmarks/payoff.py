"""How much faster ResNet-18 at 224x224 is with half of its channels, and what the pay-off check foresaw.

    python benchmarks/payoff.py

Every coupling loses half of its channels (scope "local"). Dense and cut model are exported and run by ONNX
Runtime on one thread, in turns in one process; processor time, medians, 10th to 90th percentile. Weights are
random, which does not matter to time.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from record import record
from resnet50 import conv
from torch import Tensor, nn

from kezuri import export_onnx
from kezuri.core.measurement import Measurement
from kezuri.measure.latency import compare_latency
from kezuri.recipe.prune_channels import prune_channels
from kezuri.runtime.runners.onnxruntime import OnnxRuntime

SHAPE = (3, 224, 224)


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*conv(inputs, width, 3, stride), nn.ReLU(), *conv(width, width, 3))
        changes = stride != 1 or inputs != width
        self.shortcut = nn.Sequential(*conv(inputs, width, 1, stride)) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet18(classes: int = 1000) -> nn.Module:
    """11,689,512 parameters (He et al., 2016)."""
    layers: list[nn.Module] = [*conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for width in (64, 128, 256, 512):
        for stride in (1 if width == 64 else 2, 1):
            layers.append(Block(inputs, width, stride))
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dense = resnet18().eval()
    begin = time.process_time()
    pruned = prune_channels(
        dense, torch.zeros(2, *SHAPE), options.sparsity, scope="local", payoff=True, round_to=8
    )
    took = time.process_time() - begin
    with TemporaryDirectory() as folder:
        files = {
            name: export_onnx(model, SHAPE, Path(folder) / f"{name}.onnx")
            for name, model in (("dense", dense), ("cut", pruned.model))
        }
        sessions = {name: OnnxRuntime().prepare(path, threads=1) for name, path in files.items()}
        found = compare_latency(sessions, SHAPE, calls=options.calls, budget_seconds=options.seconds)
        sizes = {name: path.stat().st_size for name, path in files.items()}
    assert pruned.payoff is not None
    findings: dict[str, Any] = {
        "dense": _row(found.latencies["dense"]),
        "cut": _row(found.latencies["cut"]),
        "times faster": _row(found.speedups["cut"]),
        "foreseen": _row(pruned.payoff.speedup),
        "size": sizes,
        "params": [pruned.before.params, pruned.after.params],
        "macs": [pruned.before.macs, pruned.after.macs],
        "largest relative error": pruned.proof,
        "seconds of pruning, pay-off check included": took,
    }
    for name, value in findings.items():
        print(f"{name:<45} {value}")
    print(record("payoff", findings, sparsity=options.sparsity, shape=SHAPE, threads=1))


def _row(found: Measurement) -> dict[str, Any]:
    return {
        "median": found.value,
        "low": found.low,
        "high": found.high,
        "unit": found.unit,
        "samples": found.samples,
    }


if __name__ == "__main__":
    main()
