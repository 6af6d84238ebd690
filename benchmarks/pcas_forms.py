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

from kezuri.artifact.folder import RunFolder
from kezuri.recipe.document import Document
from kezuri.recipe.prepare import prepare
from kezuri.recipe.recipe import recipe_from
from kezuri.recipe.run import run
from kezuri.report.plots import png
from kezuri.report.reading import RunView

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
            rows += curve(name, seed, loop(options, seed, weights, chosen))
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
    parser.add_argument("--train-epochs", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--rate", type=float, default=0.35)
    parser.add_argument("--epochs", type=float, default=2)
    return parser.parse_args()


def recipe(
    options: argparse.Namespace, seed: int, name: str, model: dict[str, Any], step: dict[str, Any]
) -> Any:
    content = {
        "name": name,
        "seed": seed,
        "model": {"use": options.model, "options": {"shortcut": "B"}, **model},
        "data": {"use": options.data, "validation": 1500},
        "goal": {"accuracy": -0.9},
        "steps": [{"augment": ["pad_crop", "flip"], "lr": 0.1, **step}],
    }
    return recipe_from(Document(content, "benchmark", {}))


def dense(options: argparse.Namespace, seed: int) -> Path:
    step = {"use": "train", "epochs": options.train_epochs}
    folder = run(prepare(recipe(options, seed, "dense", {}, step)), runs=options.runs)
    return (folder.model("final") / "model.safetensors").resolve()


def loop(options: argparse.Namespace, seed: int, weights: Path, criterion: dict[str, Any]) -> RunFolder:
    step = {
        "use": "pcas",
        "criterion": criterion,
        "rate": options.rate,
        "rounds": options.rounds,
        "epochs": options.epochs,
        "lr_ratio": 0.5,
        "saturation": 0.0,
    }
    made = recipe(options, seed, "loop", {"weights": str(weights)}, step)
    return run(prepare(made), runs=options.runs)


def curve(name: str, seed: int, folder: RunFolder) -> list[dict[str, Any]]:
    view = RunView.read(folder.path)
    after_cut = {
        m.conditions["round"]: m.value for m in view.measurements if m.metric == "accuracy_after_cut"
    }
    test = view.final("accuracy", split="test")
    last = view.rounds[-1].round
    return [
        {
            "criterion": name,
            "seed": seed,
            "round": entry.round,
            "params": entry.params / view.rounds[0].params,
            "after cut": after_cut.get(entry.round, entry.validation.value),
            "after retraining": entry.validation.value,
            "test": test.value if entry.round == last else None,
        }
        for entry in view.rounds
    ]


def describe(row: dict[str, Any]) -> str:
    return (
        f"params {row['params']:.1%}  after the last cut {row['after cut']:.2%}  "
        f"retrained {row['after retraining']:.2%}  test {row['test']:.2%}"
    )


def table(rows: list[dict[str, Any]]) -> None:
    last = max(row["round"] for row in rows)
    for round_ in range(1, last + 1):
        print(f"\nround {round_}          params %        after the cut    retrained       test")
        for name in CRITERIA:
            here = [row for row in rows if row["criterion"] == name and row["round"] == round_]
            if not here:
                continue
            columns = [
                spread([row[key] for row in here]) for key in ("params", "after cut", "after retraining")
            ]
            tested = spread([row["test"] for row in here]) if round_ == last else ""
            print(f"{name:<16}" + "".join(f"{column:>16}" for column in [*columns, tested]))


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
                width=330, height=300, title=f"right {key}" if key == "after cut" else key
            )
        )
    return (
        alt.hconcat(*panels)
        .properties(title=f"{title}: equal retraining, mean ± standard deviation over the seeds")
        .configure_legend(orient="top")
    )


if __name__ == "__main__":
    main()
