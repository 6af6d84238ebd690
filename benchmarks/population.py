"""A population that trains, against the same training spent on one mask.

    python benchmarks/population.py --data DIR

LeNet-5 is trained on Fashion-MNIST. At each sparsity three ways then make the same number of training steps,
on the same images, with the same images set aside to choose by:

- population: members with a mask, a learning rate and a weight decay each; copies of the best go on, changed;
- settings drawn: as many members with those first settings, but all with the masks of largest magnitude, and
  each to its end;
- one mask: those same masks, trained as long as all members together, with the settings as given.

The one that did best on the images set aside is looked at on the test images, once. The dense model is the
same for all seeds; a seed decides the rest. One thread; about half an hour.
"""

import argparse
import copy
from dataclasses import replace
from pathlib import Path

import torch
from record import record, spread
from torch import nn

from kezuri import evaluate, fit, load_data, load_model
from kezuri.core.seeds import derive
from kezuri.data import Data
from kezuri.data.splits import set_aside
from kezuri.prune import Population, mask_space, train_population
from kezuri.prune.exploring import Exploring, of_member
from kezuri.train import Training
from kezuri.train.optimizers import Adam


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    data = load_data("fashion-mnist", root=options.data, download=False)
    dense = load_model("lenet5", classes=len(data.classes), image_shape=data.image_shape)
    fit(dense, data, Training(epochs=5, lr=0.05), seed=0, device="cpu")
    findings: dict[str, dict[str, list[float]]] = {}
    for sparsity in options.sparsity:
        found = findings[f"{sparsity:g}"] = {"population": [], "settings drawn": [], "one mask": []}
        for seed in range(options.seeds):
            for (name, accuracies), way in zip(found.items(), (grown, drawn, alone), strict=True):
                model = way(dense, data, Population(sparsity=sparsity), options.epochs, seed)
                accuracies.append(evaluate(model, data.test, device="cpu").accuracy)
                print(f"{sparsity:.0%}  seed {seed}  {name:<16}{accuracies[-1]:.2%}", flush=True)
    print(f"dense: {evaluate(dense, data.test, device='cpu').accuracy:.2%}, test images")
    for key, ways in findings.items():
        for name, accuracies in ways.items():
            print(f"{float(key):.0%} removed  {name:<16}{spread(accuracies)} %")
    print(
        record("population", findings, sparsity=options.sparsity, seeds=options.seeds, epochs=options.epochs)
    )


def training(epochs: float) -> Training:
    return Training(epochs=epochs, lr=0.002, optimizer=Adam(weight_decay=1e-4), batch_size=128)


def grown(dense: nn.Module, data: Data, plan: Population, epochs: float, seed: int) -> nn.Module:
    model = copy.deepcopy(dense)
    train_population(model, data, training(epochs), plan, mask_space(model), seed=seed, device="cpu")
    return model


def drawn(dense: nn.Module, data: Data, plan: Population, epochs: float, seed: int) -> nn.Module:
    """The best of as many trainings as the population has members, with the settings those begin with."""
    base = training(epochs)
    trained = []
    for member in Exploring(plan, base, steps=plan.intervals, seed=seed).tasks(0, ()):
        settings = of_member(base, member.lr, member.weight_decay)
        once = derive(seed, "member", member.member)
        trained.append(retrained(dense, divided(data, plan, seed), plan, settings, once))
    return max(trained, key=lambda one: one[0])[1]


def alone(dense: nn.Module, data: Data, plan: Population, epochs: float, seed: int) -> nn.Module:
    return retrained(dense, divided(data, plan, seed), plan, training(epochs * plan.members), seed)[1]


def divided(data: Data, plan: Population, seed: int) -> Data:
    """The same images set aside as the population of that seed has."""
    kept, aside = set_aside(data.train.labels, plan.aside, seed=derive(seed, "aside"), purpose="validation")
    return replace(data, train=data.train.subset(kept), validation=data.train.subset(aside))


def retrained(
    dense: nn.Module, data: Data, plan: Population, settings: Training, seed: int
) -> tuple[float, nn.Module]:
    """The masks of largest magnitude, retrained; accuracy on the images set aside, and the model."""
    model = copy.deepcopy(dense)
    space = mask_space(model)
    masks = space.masks(space.best(plan.sparsity))
    masks.apply_(model)
    fitted = fit(model, data, settings, seed=seed, device="cpu", hooks=[masks.hold()])
    return fitted.best_accuracy, model


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=None, help="folder the data sets lie in")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.95, 0.98])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=1, help="of each member of the population")
    return parser.parse_args()


if __name__ == "__main__":
    main()
