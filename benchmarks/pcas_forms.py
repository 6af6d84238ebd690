"""Which statistic ranks channels best: PCAS as published, PCAS with concrete gates, L2, Taylor, random.

    python benchmarks/pcas_forms.py --runs runs/pcas-forms

Each seed trains one dense network; every criterion then runs the same loop on it with equal retraining (same
epochs, learning rates and order of images). Shown are validation accuracy right after each cut and after each
retraining, and test accuracy at the end; mean and standard deviation over the seeds.
"""

import argparse
from pathlib import Path
from typing import Any

import altair as alt
from record import record, spread

from kezuri import evaluate
from kezuri.artifact.folder import RunFolder
from kezuri.artifact.journal import Journal
from kezuri.recipe.document import Document
from kezuri.recipe.prepare import Prepared, prepare
from kezuri.recipe.recipe import recipe_from
from kezuri.recipe.run import resources_of
from kezuri.recipe.step import ModelState
from kezuri.report.plots import png

STAGE = "1-step"
CRITERIA: dict[str, dict[str, Any]] = {
    "PCAS (sigmoid)": {"use": "pcas", "gate": "sigmoid"},
    "PCAS (concrete)": {"use": "pcas", "gate": "concrete"},
    "L2": {"use": "l2"},
    "Taylor": {"use": "taylor"},
    "random": {"use": "random"},
}


def main() -> None:
    options = arguments()
    rows = []
    for seed in range(options.seeds):
        weights = dense(options, seed)
        for name, criterion in CRITERIA.items():
            chosen = {**criterion, "seed": seed} if name == "random" else criterion
            rows += curve(options, name, seed, weights, chosen)
            print(f"seed {seed}  {name:<16} {describe(rows[-1])}", flush=True)
    table(rows)
    image = options.image
    image.write_bytes(png(chart(rows, f"{options.model} on {options.data}")))
    settings = {key: str(value) for key, value in vars(options).items() if key not in ("runs", "image")}
    print(image, record("pcas_forms", rows, **settings))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/pcas-forms"))
    parser.add_argument("--image", type=Path, default=Path("docs/images/pcas_forms.png"))
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--data", default="fashion-mini")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train-epochs", type=float, default=12)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--rate", type=float, default=0.45)
    parser.add_argument("--epochs", type=float, default=2)
    return parser.parse_args()


def prepared(options: argparse.Namespace, seed: int, step: dict[str, Any], weights: Path | None) -> Prepared:
    content = {
        "name": "forms",
        "seed": seed,
        "model": {"use": options.model, "options": {"shortcut": "B"}, "weights": weights and str(weights)},
        "data": {"use": options.data, "validation": 1500},
        "goal": {"accuracy": -0.9},
        "steps": [{"augment": ["flip"], "lr": 0.1, "batch_size": 64, **step}],
    }
    return prepare(recipe_from(Document(content, "benchmark", {})))


def work(options: argparse.Namespace, ready: Prepared) -> tuple[ModelState, RunFolder]:
    """The model after the recipe's only step, and the folder of what it did; goes on after a kill."""
    folder = RunFolder(options.runs / ready.run_name)
    state = ready.recipe.steps[0].apply(ModelState(ready.model), resources_of(ready, folder), stage=STAGE)
    return state, folder


def dense(options: argparse.Namespace, seed: int) -> Path:
    _, folder = work(options, prepared(options, seed, {"use": "train", "epochs": options.train_epochs}, None))
    return (folder.stage(STAGE) / "model" / "model.safetensors").resolve()


def curve(
    options: argparse.Namespace, name: str, seed: int, weights: Path, criterion: dict[str, Any]
) -> list[dict[str, Any]]:
    step = {
        "use": "pcas",
        "criterion": criterion,
        "rate": options.rate,
        "rounds": options.rounds,
        "epochs": options.epochs,
        "lr_ratio": 0.5,
        "saturation": 0.0,
    }
    ready = prepared(options, seed, step, weights)
    state, folder = work(options, ready)
    rows: dict[int, dict[str, Any]] = {}
    for m in Journal(folder.measurements).read():
        round_ = m.conditions["round"]
        row = rows.setdefault(round_, {"criterion": name, "seed": seed, "round": round_})
        if m.metric == "accuracy" and m.conditions["split"] == "validation":
            row["after retraining"] = m.value
        elif m.metric in ("params", "macs", "accuracy_after_cut"):
            row[m.metric.replace("accuracy_after_cut", "after cut")] = m.value
    start = {**rows[0]}
    for row in rows.values():
        row |= {key: row[key] / start[key] for key in ("params", "macs")}
    ordered = [rows[round_] for round_ in sorted(rows)]
    ordered[0]["after cut"] = ordered[0]["after retraining"]
    assert ready.data.test is not None
    ordered[-1]["test"] = evaluate(state.model, ready.data.test).accuracy
    return ordered


def describe(row: dict[str, Any]) -> str:
    return (
        f"params {row['params']:.1%}  after the last cut {row['after cut']:.2%}  "
        f"retrained {row['after retraining']:.2%}  test {row['test']:.2%}"
    )


def table(rows: list[dict[str, Any]]) -> None:
    last = max(row["round"] for row in rows)
    keys = ("params", "macs", "after cut", "after retraining")
    for round_ in range(1, last + 1):
        shown = (*keys, "test") if round_ == last else keys
        print(f"\nround {round_:<10}" + "".join(f"{key:>18}" for key in shown))
        for name in CRITERIA:
            here = [row for row in rows if row["criterion"] == name and row["round"] == round_]
            print(f"{name:<16}" + "".join(f"{spread([row[key] for row in here]):>18}" for key in shown))


def chart(rows: list[dict[str, Any]], title: str) -> alt.HConcatChart:
    names = list(CRITERIA)
    colours = alt.Scale(domain=names, range=["#56B4E9", "#0072B2", "#E69F00", "#009E73", "#999999"])
    panels = []
    for key in ("after cut", "after retraining"):
        data = alt.Data(
            values=[
                {"criterion": r["criterion"], "round": r["round"], "accuracy": 100 * r[key]} for r in rows
            ]
        )
        base = alt.Chart(data).encode(
            x=alt.X("round:O", title="round (0 = dense)", axis=alt.Axis(labelAngle=0)),
            color=alt.Color("criterion:N", scale=colours, sort=names, title=None),
        )
        y = alt.Y("mean(accuracy):Q", title="validation accuracy (%)", scale=alt.Scale(zero=False))
        line = base.mark_line(point=True).encode(y=y)
        bars = base.mark_errorbar(extent="stdev").encode(
            y=alt.Y("accuracy:Q", title="validation accuracy (%)", scale=alt.Scale(zero=False))
        )
        panels.append(
            (bars + line).properties(
                width=330, height=300, title="right after the cut" if key == "after cut" else key
            )
        )
    return (
        alt.hconcat(*panels)
        .properties(title=f"{title}: equal retraining, mean ± standard deviation over the seeds")
        .configure_legend(orient="top")
    )


if __name__ == "__main__":
    main()
