"""What one PCAS round costs by itself, in training epochs; and how long the coupling analysis takes.

    python benchmarks/round_cost.py

A round's own cost is gates trained for one epoch, their statistics, the choice, the cut and its proof. It is
measured in turns with plain training epochs in one process; medians of processor time, lowest and highest.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from record import record
from resnet50 import resnet50
from torch import nn

from kezuri import couple, cut, fit, gather, load_data, load_model, select_masks
from kezuri.prune.criteria.pcas import Pcas
from kezuri.prune.granularity import Channel
from kezuri.prune.scope import Global
from kezuri.train import Training


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--data", default="fashion-mini")
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(options.data)
    model = load_model(options.model, classes=len(data.classes), image_shape=data.image_shape)
    fit(model, data, Training(epochs=1), seed=0)
    example = torch.zeros(2, *data.image_shape)
    channels = Channel(residual=False)

    def epoch() -> None:
        fit(model, data, Training(epochs=1, lr=1e-4), seed=1)

    def pcas_round(gate: str) -> None:
        criterion = Pcas(gate=gate, epochs=1.0)  # type: ignore[arg-type]
        couplings = couple(model, example)
        found = gather(model, criterion, data, couplings=channels.candidates(couplings))
        chosen = select_masks(
            model,
            0.3,
            criterion=criterion,
            granularity=channels,
            scope=Global(count="units"),
            couplings=couplings,
            evidence=found,
        )
        assert chosen.kept_channels is not None
        cut(model, couplings, chosen.kept_channels, example)

    work: dict[str, Callable[[], Any]] = {
        "epoch": epoch,
        "round, sigmoid": lambda: pcas_round("sigmoid"),
        "round, concrete": lambda: pcas_round("concrete"),
    }
    taken: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(options.times):
        for name, do in work.items():
            begin = time.process_time()
            do()
            taken[name].append(time.process_time() - begin)
    findings: dict[str, Any] = {}
    for name in ("round, sigmoid", "round, concrete"):
        ratios = [mine / epoch for mine, epoch in zip(taken[name], taken["epoch"], strict=True)]
        findings[name] = {"epochs": median(ratios), "lowest": min(ratios), "highest": max(ratios)}
        print(f"{name:<16} {median(ratios):.2f} training epochs ({min(ratios):.2f} to {max(ratios):.2f})")
    analysed = {
        "resnet56": (load_model("resnet56", classes=10, image_shape=(3, 32, 32)), 32),
        "resnet50": (resnet50(), 224),
    }
    for name, (network, side) in analysed.items():
        seconds = coupling_seconds(network, side)
        findings[f"coupling, {name}"] = seconds
        print(f"coupling {name} at {side}x{side}: {seconds:.2f} s of processor time, export included")
    print(record("round_cost", findings, model=options.model, data=options.data, times=options.times))


def coupling_seconds(model: nn.Module, side: int) -> float:
    times = []
    for _ in range(4):
        begin = time.process_time()
        couple(model, torch.zeros(2, 3, side, side))
        times.append(time.process_time() - begin)
    return median(times[1:])  # the first call loads torch.export


if __name__ == "__main__":
    main()
