"""The comparison engineers make by hand with a PCAS tool, as one command: rate, lr_ratio, rounds.

    python benchmarks/conditions.py --runs runs/conditions

Three conditions, (30 %, 0.2, 5 rounds), (30 %, 0.5, 5) and (15 %, 0.5, 8), prune one and the same dense
network, without a floor, so that each shows how far its settings go. Ends with the table, the Pareto front, a
page and a picture.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from record import record

from kezuri.recipe.document import Document
from kezuri.recipe.prepare import prepare
from kezuri.recipe.recipe import recipe_from
from kezuri.recipe.run import run
from kezuri.report.compare import compare
from kezuri.report.tables import comparison_table
from kezuri.report.write import write_comparison

CONDITIONS = ((0.30, 0.2, 5), (0.30, 0.5, 5), (0.15, 0.5, 8))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/conditions"))
    parser.add_argument("--out", type=Path, default=Path("runs/conditions/comparison.html"))
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--data", default="fashion-mini")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train-epochs", type=float, default=12)
    parser.add_argument("--epochs", type=float, default=1)
    options = parser.parse_args()
    folders = []
    for seed in range(options.seeds):
        dense = execute(options, seed, "dense", None, {"use": "train", "epochs": options.train_epochs})
        weights = (dense / "models" / "final" / "model.safetensors").resolve()
        for rate, ratio, rounds in CONDITIONS:
            step = {
                "use": "pcas",
                "rate": rate,
                "lr_ratio": ratio,
                "rounds": rounds,
                "epochs": options.epochs,
            }
            name = f"rate{rate:.0%}-ratio{ratio}-rounds{rounds}".replace("%", "")
            folders.append(execute(options, seed, name, weights, step))
            print(folders[-1], flush=True)
    table = comparison_table(compare(folders))
    print(table.text())
    print(write_comparison(folders, options.out))
    print(
        record(
            "conditions",
            json.loads(table.json()),
            seeds=options.seeds,
            model=options.model,
            data=options.data,
        )
    )


def execute(options: Any, seed: int, name: str, weights: Path | None, step: dict[str, Any]) -> Path:
    content = {
        "name": name,
        "seed": seed,
        "model": {"use": options.model, "options": {"shortcut": "B"}, "weights": weights and str(weights)},
        "data": {"use": options.data, "validation": 1500},
        "goal": {"accuracy": -0.9},
        "steps": [{"augment": ["flip"], "lr": 0.1, "batch_size": 64, **step}],
    }
    return run(prepare(recipe_from(Document(content, "benchmark", {}))), runs=options.runs).path


if __name__ == "__main__":
    main()
