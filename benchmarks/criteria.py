"""Which channels to cut: every criterion against every other and against Torch-Pruning, by short retraining.

    python benchmarks/criteria.py --models DIR --data DIR

Each criterion cuts one and the same trained CIFAR-10 ResNet once, down to the same multiply-accumulates, and
the rest is retrained equally: same epochs, learning rates and order of images, which the seed decides. Rows
with sparsity training spend half of their epochs on it before the cut. Shown are validation accuracy right
after the cut and test accuracy after retraining, at the epoch that was best on the validation images; mean
and standard deviation over the seeds. Torch-Pruning's group-norm pruner stands beside them where its package
is installed. Finished runs are kept in --runs, so that a second call goes on.

The published weights have seen all training images, so the validation images are half of the test images.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import altair as alt
import torch
from record import record, spread
from rival import group_norm_pruned, installed
from torch import nn

from kezuri import couple, cut, evaluate, fit, gather, load_data, load_model, select_masks
from kezuri.artifact.atomic import write_json
from kezuri.core.seeds import derive
from kezuri.data import Data
from kezuri.data.augment import Flip, PadCrop
from kezuri.measure.macs import count_macs, count_params
from kezuri.model.coupling import Couplings
from kezuri.prune import (
    L1,
    L2,
    BnScale,
    BnScaleSparsity,
    Channel,
    Fisher,
    Fpgm,
    Global,
    GroupSparsity,
    HRank,
    Lamp,
    Pcas,
    Random,
    Taylor,
    Wanda,
)
from kezuri.prune.criterion import Criterion
from kezuri.prune.regularizer import Regularizer
from kezuri.report.plots import Chart, png, titled
from kezuri.report.theme import BLUE, GREY, SKY, VERMILLION
from kezuri.train import Training

NORMALIZE = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # what the published weights were trained with
RIVAL = "Torch-Pruning group norm"
HALVINGS = 14


@dataclass(frozen=True)
class Candidate:
    """One row: how channels are valued, and what made them fade beforehand."""

    criterion: Callable[[argparse.Namespace, int], Criterion]
    regularizer: Regularizer | None = None


def fixed(criterion: Criterion) -> Candidate:
    return Candidate(lambda _options, _seed: criterion)


CANDIDATES: Mapping[str, Candidate] = {
    "L1": fixed(L1()),
    "L2": fixed(L2()),
    "L2, group sparsity first": Candidate(lambda _options, _seed: L2(), GroupSparsity(strength=1e-3)),
    "BN scale": fixed(BnScale()),
    "BN scale, sparsity first": Candidate(lambda _options, _seed: BnScale(), BnScaleSparsity(strength=1e-3)),
    "LAMP": fixed(Lamp(per="channel")),
    "FPGM": fixed(Fpgm()),
    "HRank": fixed(HRank()),
    "Wanda": fixed(Wanda()),
    "Taylor (gate)": fixed(Taylor()),
    "Taylor (gate on weights)": fixed(Taylor(gate="weights")),
    "Taylor (weight)": fixed(Taylor(per="weight")),
    "Fisher (gate)": fixed(Fisher()),
    "Fisher (weight)": fixed(Fisher(per="weight")),
    "PCAS (sigmoid)": Candidate(lambda options, _seed: Pcas(epochs=options.attention_epochs)),
    "PCAS (concrete)": Candidate(
        lambda options, _seed: Pcas(gate="concrete", epochs=options.attention_epochs)
    ),
    "random": Candidate(lambda _options, seed: Random(seed)),
}


@dataclass(frozen=True)
class Setting:
    """What all rows share."""

    options: argparse.Namespace
    data: Data
    dense: nn.Module
    couplings: Couplings
    target: float

    @property
    def example(self) -> torch.Tensor:
        return torch.zeros(2, *self.data.image_shape)

    def macs(self, model: nn.Module) -> int:
        return count_macs(model, self.data.image_shape)


def main() -> None:
    options = arguments()
    wanted = options.criteria or [*CANDIDATES, RIVAL]
    if RIVAL in wanted and installed() is None:
        print(f"{RIVAL} is left out: the package torch-pruning is not installed")
        wanted.remove(RIVAL)
    setting = prepared(options)
    rows = [one(setting, name, seed) for seed in range(options.seeds) for name in wanted]
    table(rows)
    options.image.parent.mkdir(parents=True, exist_ok=True)
    options.image.write_bytes(png(chart(rows, setting)))
    left_out = ("runs", "image", "models", "data", "criteria")
    conditions = {key: value for key, value in vars(options).items() if key not in left_out}
    print(options.image, record("criteria", rows, torch_pruning=installed(), **conditions))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True, help="holds MODEL_cifar10.safetensors")
    parser.add_argument("--data", type=Path, required=True, help="holds cifar10")
    parser.add_argument("--runs", type=Path, default=Path("runs/criteria"))
    parser.add_argument("--image", type=Path, default=Path("docs/images/criteria.png"))
    parser.add_argument("--model", default="resnet20")
    parser.add_argument(
        "--macs", type=float, default=0.5, help="what is left, as a fraction of the dense model's"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=2, help="of retraining")
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--attention-epochs", type=float, default=0.3, help="of training PCAS's gates")
    parser.add_argument("--residual", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--criteria", nargs="*", choices=[*CANDIDATES, RIVAL], help="only these")
    return parser.parse_args()


def prepared(options: argparse.Namespace) -> Setting:
    data = load_data(
        "cifar10",
        root=options.data,
        validation=5000,
        validation_from="test",
        normalize=NORMALIZE,
        download=False,
    )
    weights = options.models / f"{options.model}_cifar10.safetensors"
    dense = load_model(
        options.model, classes=len(data.classes), image_shape=data.image_shape, weights=weights
    )
    dense.eval()
    couplings = couple(dense, torch.zeros(2, *data.image_shape))
    macs = count_macs(dense, data.image_shape)
    assert data.test is not None
    accuracy = [evaluate(dense, part).accuracy for part in (data.validation, data.test)]
    print(f"dense: {macs / 1e6:.1f} M MACs, validation {accuracy[0]:.2%}, test {accuracy[1]:.2%}", flush=True)
    return Setting(options, data, dense, couplings, options.macs * macs)


def one(setting: Setting, name: str, seed: int) -> dict[str, Any]:
    """What became of one criterion with one seed: made now, or in an earlier call."""
    options = setting.options
    settings = (
        f"{options.model}-{options.macs:g}-{options.epochs:g}-{options.lr:g}-{options.attention_epochs:g}"
    )
    kept = options.runs / f"{settings}{'' if options.residual else '-inner'}" / f"{name} {seed}.json"
    if not kept.exists():
        began = time.monotonic()
        small, left = removed(setting, name, seed)
        row = {"criterion": name, "seed": seed, "removing seconds": time.monotonic() - began}
        write_json(kept, row | retrained(setting, small, left, seed))
    row = json.loads(kept.read_text())
    print(
        f"seed {seed}  {name:<26} MACs {row['macs']:.1%}  params {row['params']:.1%}  "
        f"cut {row['after cut']:.2%}  retrained {row['validation']:.2%}  test {row['test']:.2%}",
        flush=True,
    )
    return row


def removed(setting: Setting, name: str, seed: int) -> tuple[nn.Module, float]:
    """The dense model cut down to the target, and how many epochs are left for retraining it."""
    options, epochs = setting.options, setting.options.epochs
    if name == RIVAL:
        return rival(setting), epochs
    candidate = CANDIDATES[name]
    model = copy.deepcopy(setting.dense)
    if candidate.regularizer is not None:
        epochs /= 2
        hook = candidate.regularizer.hook(model, setting.couplings)
        training = plan(options, epochs, keep="last")
        fit(model, setting.data, training, seed=derive(seed, "sparsity"), hooks=[hook])
    return cut_to_target(setting, model, candidate.criterion(options, seed), seed), epochs


def cut_to_target(setting: Setting, model: nn.Module, criterion: Criterion, seed: int) -> nn.Module:
    """As little cut as meets the target: a higher sparsity only ever removes more."""
    evidence = gather(model, criterion, setting.data, couplings=setting.couplings, seed=seed)
    low, high, best = 0.0, 1.0, None
    for _ in range(HALVINGS):
        sparsity = (low + high) / 2
        selection = select_masks(
            model,
            sparsity,
            criterion=criterion,
            granularity=Channel(floor=2, residual=setting.options.residual),
            scope=Global(),
            evidence=evidence,
            couplings=setting.couplings,
        )
        done = cut(model, setting.couplings, selection.kept_channels or {}, setting.example)
        assert not done.rejected, done.rejected
        if setting.macs(done.model) <= setting.target:
            high, best = sparsity, done.model
        else:
            low = sparsity
    assert best is not None, f"{criterion} cannot reach {setting.options.macs:g} of the MACs"
    return best


def rival(setting: Setting) -> nn.Module:
    """What Torch-Pruning cuts; it may touch what the criteria may touch."""
    modules = dict(setting.dense.named_modules())
    spared = {"linear"}
    if not setting.options.residual:
        sums = [coupling for coupling in setting.couplings.free if setting.couplings.is_residual(coupling)]
        spared |= {producer for coupling in sums for producer in coupling.producers}
    return group_norm_pruned(
        setting.dense,
        setting.example,
        spared=[modules[name] for name in sorted(spared)],
        small_enough=lambda model: setting.macs(model) <= setting.target,
    )


def retrained(setting: Setting, model: nn.Module, epochs: float, seed: int) -> dict[str, float]:
    data, dense = setting.data, setting.dense
    assert data.test is not None
    row = {
        "macs": setting.macs(model) / setting.macs(dense),
        "params": count_params(model) / count_params(dense),
        "after cut": evaluate(model, data.validation).accuracy,
    }
    fitted = fit(model, data, plan(setting.options, epochs), seed=derive(seed, "retraining"))
    return row | {
        "validation": fitted.best_accuracy,
        "test": evaluate(model, data.test).accuracy,
        "retraining seconds": fitted.seconds,
    }


def plan(options: argparse.Namespace, epochs: float, **changes: Any) -> Training:
    return Training(epochs=epochs, lr=options.lr, augment=(PadCrop(), Flip()), **changes)


def by_rank(rows: list[dict[str, Any]]) -> list[str]:
    """The criteria, best first, by validation accuracy."""
    found = {row["criterion"]: [] for row in rows}
    for row in rows:
        found[row["criterion"]].append(row["validation"])
    return sorted(found, key=lambda name: -mean(found[name]))


def table(rows: list[dict[str, Any]]) -> None:
    keys = ("macs", "params", "after cut", "validation", "test")
    print(f"\n{'':<26}" + "".join(f"{key:>16}" for key in keys))
    for name in by_rank(rows):
        here = [row for row in rows if row["criterion"] == name]
        print(f"{name:<26}" + "".join(f"{spread([row[key] for row in here]):>16}" for key in keys))


def chart(rows: list[dict[str, Any]], setting: Setting) -> Chart:
    order, options = by_rank(rows), setting.options
    panels = [
        panel(rows, order, "test", "after retraining: test accuracy (%)", labels=True),
        panel(rows, order, "after cut", "right after the cut: validation accuracy (%)", labels=False),
    ]
    return titled(
        alt.hconcat(*panels, spacing=24),
        f"What to cut {options.model} by, down to {options.macs:.0%} of its MACs",
        f"CIFAR-10, {options.epochs:g} epochs in all; dots: one of {options.seeds} seeds each; "
        f"bars: mean ± standard deviation; ranked by validation accuracy",
    )


def panel(rows: list[dict[str, Any]], order: list[str], key: str, title: str, *, labels: bool) -> Any:
    values = [
        {"criterion": row["criterion"], "accuracy": 100 * row[key], "colour": colour(row["criterion"])}
        for row in rows
    ]
    axis = alt.Axis(labels=labels, ticks=False, domain=False, grid=True, labelLimit=260)
    base = alt.Chart(alt.Data(values=values)).encode(
        y=alt.Y("criterion:N", sort=order, title=None, axis=axis),
        color=alt.Color("colour:N", scale=None),
    )
    x = alt.X("accuracy:Q", title=title, scale=alt.Scale(zero=False, padding=12))
    dots = base.mark_circle(size=45, opacity=0.45).encode(x=x)
    bars = base.mark_errorbar(extent="stdev", thickness=2).encode(x=alt.X("accuracy:Q", title=title))
    means = base.mark_tick(thickness=3, size=14).encode(x=alt.X("mean(accuracy):Q", title=title))
    return (bars + dots + means).properties(width=400, height=24 * len(order))


def colour(name: str) -> str:
    if name == RIVAL:
        return VERMILLION
    if name == "random":
        return GREY
    return SKY if name.endswith("first") else BLUE


if __name__ == "__main__":
    main()
