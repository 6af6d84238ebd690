"""Ten labels a class: alone, and with 3,000 images without labels (FixMatch).

    python benchmarks/few_labels.py --seeds 3

Both trainings make the same steps on the same labelled batches of fashion-mini, with a small network of
23 thousand weights; accuracy is on 3,000 other images. With the defaults it takes a minute of one core.
"""

import argparse
from dataclasses import replace

import torch
from record import record, spread
from torch import nn

from kezuri.data import load_data
from kezuri.data.augment import Cutout, Flip, PadCrop, RandAugment
from kezuri.train import FixMatch, Training, fit, with_few_labels

WEAK = (Flip(), PadCrop(2))
STRONG = (*WEAK, RandAugment(operations=2, magnitude=10, varied=True, p=0.5), Cutout(8))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--labels", type=int, default=10, help="labelled images of each class")
    parser.add_argument("--epochs", type=float, default=12, help="passes over the unlabelled images")
    parser.add_argument("--threshold", type=float, default=0.7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    whole = load_data("fashion-mini")
    order = torch.randperm(len(whole.train), generator=torch.Generator().manual_seed(0))
    train, judged = whole.train.subset(order[:3000]), whole.train.subset(order[3000:6000])
    data = replace(whole, train=train, validation=judged)
    training = Training(epochs=options.epochs, batch_size=32, lr=0.1, augment=WEAK, keep="last")
    found: dict[str, list[float]] = {"alone": [], "with unlabelled images": []}
    for seed in range(options.seeds):
        few = with_few_labels(data, options.labels, seed=seed, batch_size=32, mu=4)
        many = FixMatch(train, mu=4, threshold=options.threshold, weak=WEAK, strong=STRONG)
        for name, objective in zip(found, (None, many), strict=True):
            fitted = fit(network(seed), few, training, seed=seed, device="cpu", objective=objective)
            found[name].append(fitted.best_accuracy)
            print(f"seed {seed}  {name:<24}{fitted.best_accuracy:.2%}  {fitted.seconds:.1f} s", flush=True)
    for name, accuracies in found.items():
        print(f"{name:<24}{spread(accuracies)} %")
    print(record("few_labels", found, **vars(options)))


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after, side, stride in ((1, 12, 5, 3), (12, 32, 3, 2), (32, 64, 3, 1)):
        convolution = nn.Conv2d(before, after, side, stride, side // 2, bias=False)
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


if __name__ == "__main__":
    main()
