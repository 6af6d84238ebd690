"""How small a trained network's file gets with palettes, and what that costs in accuracy.

    python benchmarks/palettes.py --models DIR --data DIR

A published CIFAR-10 ResNet at 8 to 2 bits a weight, in all convolutions and the linear layer, nothing
retrained; and at 2 bits (--tuned) after a short training (--epochs) of centroids, biases and BatchNorm. Bytes
are those of the whole `.kzp` file, BatchNorm, names and shapes included; beside them what they would be with
zlib, or with no coding, in place of Huffman's. Accuracy is that of the 10,000 test images, with the weights
as read back from the file. Some two minutes of one core.
"""

import argparse
import copy
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from record import record
from safetensors.torch import save
from torch import nn

from kezuri import evaluate, fit, load_data, load_model
from kezuri.data import Data
from kezuri.data.augment import Flip, PadCrop
from kezuri.quantization.palette import Palettes, palettize
from kezuri.quantization.palette_file import PaletteFile, read_palettes, write_palettes
from kezuri.train import Training

NORMALIZE = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BITS = (8, 6, 5, 4, 3, 2)


def main() -> None:
    options = arguments()
    data = load_data("cifar10", root=options.data, normalize=NORMALIZE, download=False)
    weights = options.models / f"{options.model}_cifar10.safetensors"
    dense = load_model(options.model, classes=10, image_shape=data.image_shape, weights=weights)
    content = save({name: value.contiguous() for name, value in dense.state_dict().items()})
    rows = [
        {
            "bits": 32,
            "size": len(content),
            "zlib": len(zlib.compress(content, 9)),
            "none": len(content),
            "accuracy": accuracy(dense, data),
        }
    ]
    show(rows[0], len(content))
    for bits in BITS:
        palettes = palettize(dense, bits)
        rows.append(row(bits, palettes, dense, data))
        show(rows[-1], len(content))
        if options.epochs and bits in options.tuned:
            palettes = tuned(palettes, dense, data, options)
            rows.append({**row(bits, palettes, dense, data), "epochs": options.epochs})
            show(rows[-1], len(content))
    conditions = {key: getattr(options, key) for key in ("model", "epochs", "lr", "tuned")}
    print(record("palettes", rows, **conditions))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True, help="holds MODEL_cifar10.safetensors")
    parser.add_argument("--data", type=Path, required=True, help="holds cifar10")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument(
        "--epochs", type=float, default=0.15, help="of training centroids, at the bits in --tuned"
    )
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--tuned", type=int, nargs="*", default=[2])
    return parser.parse_args()


def row(bits: int, palettes: Palettes, dense: nn.Module, data: Data) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        written = write_palettes(Path(folder) / "model.kzp", palettes)
        model = copy.deepcopy(dense)
        model.load_state_dict(read_palettes(written.path).state())
    return {
        "bits": bits,
        "size": written.size,
        "zlib": others(written, palettes, lambda codes: len(zlib.compress(codes, 9))),
        "none": others(written, palettes, lambda codes: -(-len(codes) * bits // 8)),
        "bits a weight in the file": 8
        * sum(layer.size for layer in written.layers)
        / sum(layer.values for layer in written.layers),
        "accuracy": accuracy(model, data),
    }


def others(written: PaletteFile, palettes: Palettes, coded: Callable[[bytes], int]) -> int:
    """Bytes of the file if the codes, one a byte, were stored in another way."""
    total = written.plain + written.table
    for palette in palettes.palettes.values():
        total += 4 * len(palette.centroids) + coded(palette.codes.to(torch.uint8).numpy().tobytes())
    return total


def tuned(palettes: Palettes, dense: nn.Module, data: Data, options: argparse.Namespace) -> Palettes:
    model = copy.deepcopy(dense)
    model.load_state_dict(palettes.state())
    training = Training(
        epochs=options.epochs, lr=options.lr, augment=(PadCrop(), Flip()), keep="last", precision="float32"
    )
    fit(model, data, training, seed=0, hooks=[palettes.hook("mean")])
    return palettes.refreshed(model)


def accuracy(model: nn.Module, data: Data) -> float:
    assert data.test is not None
    return evaluate(model.to(memory_format=torch.channels_last), data.test, batch_size=100).accuracy


def show(row: dict[str, Any], full: int) -> None:
    name = "float32" if row["bits"] == 32 else f"{row['bits']} bits"
    name += f", {row['epochs']:g} epochs" if "epochs" in row else ""
    print(
        f"{name:<20} {row['size']:>10,} bytes ({row['size'] / full:6.1%})   zlib {row['zlib']:>9,}"
        f"   none {row['none']:>9,}   accuracy {row['accuracy']:.2%}",
        flush=True,
    )


if __name__ == "__main__":
    main()
