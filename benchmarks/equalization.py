"""One scale for a whole weight on a MobileNetV2: what it costs, and what equalization brings back.

    python benchmarks/equalization.py [--epochs 3] [--seeds 3]

Depthwise networks come out of training with channels of very different ranges, which is what makes them fail
in 8 bits with one scale a weight (Nagel et al., 2019, report 0.1 % for MobileNetV2 on ImageNet, 70 %
equalized). Here a MobileNetV2 of a quarter of the width is trained on the bundled images. Accuracies are on
the test images, looked at once a row.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from record import record, spread
from torch import nn

from kezuri import Training, evaluate, fit, load_data, quantize
from kezuri.data import Data
from kezuri.model.load import ModelSpec, load_model

WIDTH = 0.25
ROWS: dict[str, dict[str, Any]] = {
    "one scale an output": {},
    "one scale a weight": {"per_channel": False},
    "one scale a weight, biases corrected": {"per_channel": False, "correct_bias": True},
    "one scale a weight, equalized": {"per_channel": False, "equalize": True},
    "one scale a weight, equalized, biases corrected": {
        "per_channel": False,
        "equalize": True,
        "correct_bias": True,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="fashion-mini")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(options.data, root=options.root)
    found: dict[str, list[float]] = {}
    for seed in range(options.seeds):
        spec = ModelSpec("mobilenet_v2", {"width": WIDTH})
        model = load_model(spec, classes=len(data.classes), image_shape=data.image_shape, seed=seed)
        fit(model, data, Training(epochs=options.epochs, lr=0.05, batch_size=64), seed=seed)
        for title, accuracy in measured(model, data, seed).items():
            found.setdefault(title, []).append(accuracy)
        print(f"seed {seed}: {found['floats'][-1]:.2%} in floats", flush=True)
    for title, rows in found.items():
        print(f"  {title:<50} {spread(rows)} %")
    settings = {"width": WIDTH, "epochs": options.epochs, "seeds": options.seeds, "data": options.data}
    print(record("equalization", found, **settings))


def measured(network: nn.Module, data: Data, seed: int) -> dict[str, float]:
    """Test accuracy in floats and in every form of integers."""
    assert data.test is not None
    models = {"floats": network}
    models |= {title: quantize(network, data, seed=seed, **how).model for title, how in ROWS.items()}
    return {title: evaluate(model, data.test).accuracy for title, model in models.items()}


if __name__ == "__main__":
    main()
