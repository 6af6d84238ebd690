"""How many masks a core judges in a second, and whether a race ranks them as full evaluation does.

    python benchmarks/mask_fitness.py --data DIR

LeNet-5 is trained on Fashion-MNIST. At each sparsity a genetic search makes a population; it is judged on
1,000 training images in turns, each with other images: by a plain loop over the masks with all images in one
batch, the same in batches that fit the cache, in stages that compute what masks have in common once, and in
stages with the race that is the default. Then come masks that are asked for one at a time on the same images,
each a change of one layer, as annealing does. One process, one thread; processor time; medians, lowest and
highest. Kendall's tau-b compares the ranking of the race with that of the plain loop on the same images.
"""

import argparse
import time
from collections.abc import Sequence
from itertools import combinations
from math import sqrt
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from record import record
from torch import Generator, Tensor, nn

from kezuri import evaluate, fit, load_data, load_model
from kezuri.core.seeds import derive
from kezuri.data import Part
from kezuri.prune.fitness import Judge, MaskFitness
from kezuri.prune.mask_operators import swap
from kezuri.prune.mask_space import mask_space
from kezuri.prune.problem import Fitness, FixedSparsity
from kezuri.prune.searcher import Asked
from kezuri.prune.searchers.genetic import Genetic
from kezuri.prune.space import Space
from kezuri.train import Training

WAYS = {
    "plain loop, one batch": MaskFitness(race=(), how="plain", batch_size=1000),
    "plain loop, batches of 50": MaskFitness(race=(), how="plain", batch_size=50),
    "stages": MaskFitness(race=(), how="stages"),
    "stages and race": MaskFitness(how="stages"),
}
PLAIN, RACED = "plain loop, one batch", "stages and race"
ALONE = ("plain loop, one batch", "plain loop, batches of 50", "stages")


def main() -> None:
    options = arguments()
    torch.set_num_threads(1)
    data = load_data("fashion-mnist", root=options.data, download=False)
    model = load_model("lenet5", classes=len(data.classes), image_shape=data.image_shape)
    fit(model, data, Training(epochs=options.epochs, lr=0.05), seed=0)
    print(f"dense: {evaluate(model, data.validation, device='cpu').accuracy:.2%} on validation images")
    findings: dict[str, Any] = {}
    for sparsity in options.sparsity:
        found = measured(model, data.train, sparsity, options)
        findings[f"{sparsity:g}"] = found
        tell(sparsity, found)
    best = [found["population"][RACED]["median"] for found in findings.values()]
    taus = [found["tau"]["mean"] for found in findings.values()]
    print(f"\nstages and race: {min(best):.0f} to {max(best):.0f} a core-second, tau {mean(taus):.2f}")
    conditions = {key: value for key, value in vars(options).items() if key != "data"}
    print(record("mask_fitness", findings, **conditions))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="holds fashion-mnist")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.8, 0.9, 0.95])
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument(
        "--generations", type=int, default=10, help="of the search before the masks are taken"
    )
    parser.add_argument("--turns", type=int, default=5)
    return parser.parse_args()


def measured(model: nn.Module, part: Part, sparsity: float, options: argparse.Namespace) -> dict[str, Any]:
    space, problem = mask_space(model), FixedSparsity(sparsity)
    judges = {
        name: way.begin(model, space, part, problem=problem, seed=0, device="cpu")
        for name, way in WAYS.items()
    }
    kept = population(space, problem, judges[RACED], options.generations)
    neighbours = chain(kept[0], space, sparsity, len(kept))
    together: dict[str, list[float]] = {name: [] for name in WAYS}
    alone: dict[str, list[float]] = {name: [] for name in ALONE}
    taus = []
    for turn in range(options.turns):
        number = options.generations + turn
        keys = {}
        for name, judge in judges.items():
            fitnesses, seconds = timed(judge, [kept], number)
            together[name].append(len(kept) / seconds)
            keys[name] = [problem.key(one) for one in fitnesses]
        taus.append(kendall(keys[RACED], keys[PLAIN]))
        for name in ALONE:
            _, seconds = timed(judges[name], torch.split(neighbours, 1), number)
            alone[name].append(len(neighbours) / seconds)
    return {
        "population": {name: spread(rates, together[PLAIN]) for name, rates in together.items()},
        "one at a time": {name: spread(rates, alone[PLAIN]) for name, rates in alone.items()},
        "tau": {"mean": mean(taus), "lowest": min(taus), "highest": max(taus)},
    }


def population(space: Space, problem: FixedSparsity, judge: Judge, generations: int) -> Tensor:
    """The masks that a genetic search asks for after some generations."""
    search = Genetic().begin(space, problem, evaluations=10_000, generator=Generator().manual_seed(0))
    for _ in range(generations):
        search.tell(judge.judge(search.ask()))
    return search.ask().kept


def chain(kept: Tensor, space: Space, sparsity: float, count: int) -> Tensor:
    """Masks of which each swaps a few units of one layer of the first."""
    generator = Generator().manual_seed(derive(0, "chain"))
    groups = torch.randint(len(space.lengths), (count,), generator=generator).tolist()
    return torch.stack([swap(kept, 8, space, sparsity, generator, group=group) for group in groups])


def timed(judge: Judge, asked: Sequence[Tensor], number: int) -> tuple[list[Fitness], float]:
    """What a judge said of masks, a call after the other, and the seconds of processor time it took."""
    began = time.process_time()
    found = [one for kept in asked for one in judge.judge(Asked(kept, number))]
    return found, time.process_time() - began


def spread(rates: list[float], plain: list[float]) -> dict[str, float]:
    ratios = [rate / other for rate, other in zip(rates, plain, strict=True)]
    return {
        "median": median(rates),
        "lowest": min(rates),
        "highest": max(rates),
        "times plain": median(ratios),
    }


def kendall(one: list[Any], other: list[Any]) -> float:
    """Tau-b of two rankings."""
    signs = [
        ((one[a] > one[b]) - (one[a] < one[b]), (other[a] > other[b]) - (other[a] < other[b]))
        for a, b in combinations(range(len(one)), 2)
    ]
    agree = sum(x * y for x, y in signs)
    return agree / sqrt(sum(x * x for x, _ in signs) * sum(y * y for _, y in signs))


def tell(sparsity: float, found: dict[str, Any]) -> None:
    print(f"\nsparsity {sparsity:g}: masks a core-second")
    for kind in ("population", "one at a time"):
        for name, row in found[kind].items():
            print(
                f"  {kind + ':':<15} {name:<27} {row['median']:6.1f} ({row['lowest']:.1f} to "
                f"{row['highest']:.1f}), {row['times plain']:.1f} times the plain loop"
            )
    tau = found["tau"]
    print(
        f"  race against full evaluation: tau {tau['mean']:.2f} ({tau['lowest']:.2f} to {tau['highest']:.2f})"
    )


if __name__ == "__main__":
    main()
