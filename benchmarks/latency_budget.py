"""A budget of time for ResNet-20 in integers: which layers stay in floats, what that keeps and takes.

    python benchmarks/latency_budget.py --models DIR --data DIR [--seeds 3]

The published CIFAR-10 network with uneven channels and one scale a weight, which costs it four points in
integers (see quantize_accuracy.py). Under each budget, a share of the time in floats, layers stay in floats
that lose most for the time they save. The file is then timed anew against the one in floats, in turns, on one
thread of ONNX Runtime, processor time. Seeds choose the calibration images. Accuracies are on the half of the
test images that nothing was chosen by. Beside it: as many layers in floats, the first ones of the network.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from quantize_accuracy import cifar10, uneven
from record import record, spread
from torch import nn

from kezuri import evaluate, export_onnx, load_model, quantize
from kezuri.data import Data
from kezuri.quantization.scheme import Scheme
from kezuri.quantization.sensitivity import UNTOUCHED
from kezuri.recipe.quantize_to import quantize_to
from kezuri.recipe.timing import FileRace

BUDGETS = (0.6, 0.7, 0.85)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True, help="holds resnet20_cifar10.safetensors")
    parser.add_argument("--data", type=Path, required=True, help="holds cifar10")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = cifar10(options.data)
    weights = options.models / "resnet20_cifar10.safetensors"
    model = uneven(load_model("resnet20", classes=10, image_shape=data.image_shape, weights=weights).eval())
    assert data.test is not None
    found: dict[str, Any] = {"float": [{"accuracy": evaluate(model, data.test).accuracy}]}
    with TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for title, row in measured(model, data, Path(folder) / str(seed), seed):
                found.setdefault(title, []).append(row)
                print(f"seed {seed}  {title:<28} {row}", flush=True)
    for title, rows in found.items():
        accuracies = spread([row["accuracy"] for row in rows])
        times = spread([row["of the time"] for row in rows if "of the time" in row] or [1.0])
        print(f"{title:<30} {accuracies} %   in {times} % of the time")
    print(record("latency_budget", found, seeds=options.seeds))


def measured(model: nn.Module, data: Data, folder: Path, seed: int) -> list[tuple[str, dict[str, Any]]]:
    """Every budget, from one table, and what it is compared with."""
    folder.mkdir()
    floats = export_onnx(model, data.image_shape, folder / "float.onnx")
    whole = quantize(model, data, per_channel=False, seed=seed)
    layers = [row.name for row in whole.report.rows if row.bits is not None]
    rows = [("all in integers", timed(whole, floats, data))]
    for budget in BUDGETS:
        made, chosen, _ = quantize_to(
            model,
            data,
            {"latency": budget},
            scheme=Scheme(per_channel=False),
            table=folder / "table.json",
            seed=seed,
        )
        count = sum(option == UNTOUCHED for option in chosen.options.values())
        rows.append((f"budget {budget}", {"floats": count, **timed(made, floats, data)}))
        first = quantize(model, data, per_channel=False, spared=layers[:count], seed=seed)
        rows.append((f"as many, the first ones ({budget})", {"floats": count, **timed(first, floats, data)}))
    return rows


def timed(made: Any, floats: Path, data: Data) -> dict[str, float]:
    """Test accuracy, and the share of the float file's time."""
    assert data.test is not None
    path = made.export(floats.with_name("trial.onnx"))
    race = FileRace(seconds=1.0)({"floats": floats, "trial": path}, (1, *data.image_shape))
    return {
        "accuracy": evaluate(made.model, data.test).accuracy,
        "of the time": round(race["trial"] / race["floats"], 4),
    }


if __name__ == "__main__":
    main()
