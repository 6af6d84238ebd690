"""What integers cost in accuracy: after training, with training, with few bits, with one scale a weight.

    python benchmarks/quantize_accuracy.py --models DIR --data DIR

Published CIFAR-10 ResNets; half of the test images serve as validation images, as the weights have seen all
training images; the other half is looked at once a row. Three seeds choose the calibration images and the
order of training. Training is a fraction of an epoch with the usual augmentation and keeps the epoch that is
best on the validation images. "Uneven channels" are those of a network that computes the same, with channels
scaled by 2^u, u uniform in [-3, 3], much as MobileNets come out of training (Nagel et al., 2019). The last
line is the processor time of a training step with quantizers against one without, taken in turns. Rows that
are not asked for stay in the results as an earlier call left them.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from record import RESULTS, record, spread
from torch import nn

from kezuri import Training, evaluate, fit, load_data, load_model
from kezuri.data import Data
from kezuri.data.augment import Flip, PadCrop
from kezuri.quantization.fake import Ranges
from kezuri.quantization.qat import ScalesUndecayed
from kezuri.quantization.quantize import quantize
from kezuri.train.loop import Loop

NORMALIZE = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # what the published weights were trained with
Row = Callable[[nn.Module, Data, int], nn.Module]


def calibrated(bits: int = 8, **settings: Any) -> Row:
    """After training alone."""
    return lambda model, data, seed: quantize(model, data, bits, seed=seed, **settings).model


def trained(bits: int, epochs: float, lr: float, ranges: Ranges, *, frozen: bool = False) -> Row:
    """With training, from the calibrated network on; frozen: batch normalisation keeps its statistics."""

    def make(model: nn.Module, data: Data, seed: int) -> nn.Module:
        quantized = quantize(model, data, bits, activation_bits=bits, seed=seed)
        quantized.train_ranges(ranges)
        training = Training(epochs=epochs, lr=lr, augment=(PadCrop(), Flip()))
        hooks = (ScalesUndecayed(),)
        fit(quantized.model, data, training, seed=seed, hooks=hooks, frozen_batchnorm=frozen)
        return quantized.model

    return make


ROWS: dict[str, Row] = {
    "8 bits, calibrated": calibrated(),
    "8 bits, calibrated by mse": calibrated(observer="mse"),
    "8 bits, trained 0.3 epochs": trained(8, 0.3, 0.002, "fixed"),
    "8 bits, trained 0.3 epochs, norms frozen": trained(8, 0.3, 0.002, "fixed", frozen=True),
    "4-bit weights, nearest": calibrated(4),
    "4-bit weights, gptq": calibrated(4, rounding="gptq"),
    "4-bit weights, adaround": calibrated(4, rounding="adaround"),
    "4 bits, trained 1 epoch (LSQ)": trained(4, 1, 0.01, "learned"),
    "2 bits, trained 3 epochs (LSQ)": trained(2, 3, 0.02, "learned"),
}
SHORT = ("8 bits, calibrated", "8 bits, calibrated by mse", "8 bits, trained 0.3 epochs")
"""Rows for the larger networks."""

SCALED: dict[str, Row] = {
    "uneven channels, one scale a weight": calibrated(per_channel=False),
    "the same, equalized": calibrated(per_channel=False, equalize=True),
    "the same, one scale an output": calibrated(),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True, help="holds MODEL_cifar10.safetensors")
    parser.add_argument("--data", type=Path, required=True, help="holds cifar10")
    parser.add_argument("--model", nargs="*", default=["resnet20", "resnet56"])
    parser.add_argument("--rows", nargs="*", default=[*ROWS, *SCALED], choices=[*ROWS, *SCALED])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = cifar10(options.data)
    before = RESULTS / "quantize_accuracy.json"
    findings: dict[str, Any] = json.loads(before.read_text())["findings"] if before.exists() else {}
    for name in options.model:
        weights = options.models / f"{name}_cifar10.safetensors"
        model = load_model(name, classes=10, image_shape=data.image_shape, weights=weights).eval()
        findings[name] = findings.get(name, {}) | measured(name, model, data, options)
    print(record("quantize_accuracy", findings, seeds=options.seeds))


def cifar10(root: Path) -> Data:
    """As the published weights know it; half of the test images to choose by."""
    return load_data("cifar10", root=root, validation_from="test", normalize=NORMALIZE, download=False)


def measured(name: str, model: nn.Module, data: Data, options: argparse.Namespace) -> dict[str, Any]:
    assert data.test is not None
    start = {"validation": data.validation, "test": data.test}
    found: dict[str, Any] = {"float": {part: evaluate(model, of).accuracy for part, of in start.items()}}
    print(f"\n{name}: float {found['float']['test']:.2%} (test)", flush=True)
    for title in options.rows:
        if name != "resnet20" and title not in SHORT:
            continue
        origin = uneven(model) if title in SCALED else model
        rows = []
        for seed in range(options.seeds):
            began = time.process_time()
            network = (ROWS | SCALED)[title](origin, data, seed)
            row = {part: evaluate(network, of).accuracy for part, of in start.items()}
            rows.append(row | {"seconds": time.process_time() - began})
        found[title] = rows
        lost = spread([row["test"] - found["float"]["test"] for row in rows])
        tests = spread([row["test"] for row in rows])
        print(
            f"  {title:<40} {tests} %   {lost} points   {mean(r['seconds'] for r in rows):.0f} s", flush=True
        )
    if name == "resnet20" and len(options.rows) > 1:
        found["training step, times float's"] = ratio = step_cost(model, data)
        print(f"  {'a training step takes':<40} {ratio} times that of floats", flush=True)
    return found


@torch.no_grad()
def uneven(model: nn.Module) -> nn.Module:
    """The same function, with the inner channels of every block scaled unevenly."""
    torch.manual_seed(0)
    copied = copy.deepcopy(model)
    for block in copied.modules():
        if hasattr(block, "bn1") and hasattr(block, "conv2"):
            factor = 2 ** (6 * torch.rand(len(block.bn1.weight)) - 3)
            block.bn1.weight *= factor
            block.bn1.bias *= factor
            block.conv2.weight /= factor.view(1, -1, 1, 1)
    return copied


def step_cost(model: nn.Module, data: Data, turns: int = 5, steps: int = 12) -> str:
    """Median ratio of processor time, with the range."""
    networks = {"float": copy.deepcopy(model), "integers": quantize(model, data).model}
    batches = [batch for batch, _ in zip(data.train.batches(128, seed=0), range(steps), strict=False)]
    loops = {}
    for kind, network in networks.items():
        network.train()
        parameters = [one for one in network.parameters() if one.requires_grad]
        loops[kind] = Loop(
            network, Training(epochs=1, lr=1e-4), parameters=parameters, seed=0, epoch_steps=390
        )
    ratios = []
    for turn in range(turns + 1):
        seconds = {}
        for kind, loop in loops.items():
            began = time.process_time()
            for number, batch in enumerate(batches):
                loop.step(batch, number)
            seconds[kind] = time.process_time() - began
        if turn:
            ratios.append(seconds["integers"] / seconds["float"])
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
