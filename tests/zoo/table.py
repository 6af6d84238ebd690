"""Writes the outcomes as a page: `python -m tests.zoo.table runs/zoo.json docs/zoo.md`."""

import json
import platform
import sys
from collections import Counter
from pathlib import Path

import onnxruntime
import torch

from .trial import CHECKS, Outcome

TITLES = {
    "hard": "Hard graphs of our own",
    "torchvision": "torchvision: classification, segmentation, video, backbones and trunks of detectors",
    "timm": "timm: one small member of every family",
}
MARKS = {"ok": "✓", "failed": "**✗**", "unable": "–"}
HEAD = """\
# The zoo: what is cut, and whether it is still the same model

Made by `{command}`; do not edit. {versions}.

Every coupling of every model loses half of its units (smallest ℓ2 norm first), without an ignore list. Then the harness
(`tests/zoo/trial.py`) asks of each model, in a process of its own:

- **couples**: the analysis ends. **cut**: something goes, and the model passed in is untouched.
- **batch**: the result takes a batch of another size.
- **exact**: its outputs are those of the zero-masked original, to a relative 1e-5. The masked model is made here from the positions
  that were kept, not by Kezuri, and the inputs are others than its proof used.
- **trains**: one step of gradient descent; every parameter that had a gradient has one, all finite.
- **saves**: written, read back, and equal in every bit. **default**: `prune_channels(model, inputs, sparsity=0.5)` with nothing else said
  is exact too, against the model's own `.masked` as well. **onnx**: exported, and ONNX Runtime agrees to a relative 1e-4.

✓ yes, ✗ no (listed below with the reason), – the model as it came cannot either. *Left* is the share of parameters, *layers* counts those
cut / kept / blocked. *Result* is `module` where the user's own class was made smaller, `program` where its code holds sizes as
numbers and the exported program was rewritten. Weights are random, with no zeros or ones left that could hide a mistake.
"""


def main(source: Path, target: Path) -> None:
    records = json.loads(source.read_text(encoding="utf-8"))
    lists: dict[str, list[tuple[Outcome, float]]] = {}
    for _, record in sorted(records.items()):
        entry = Outcome.from_json(dict(record["outcome"])), record["seconds"]
        lists.setdefault(record["list"], []).append(entry)
    versions = f"torch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}, Python {platform.python_version()}"
    parts = [HEAD.format(command="make zoo", versions=versions), _totals(lists)]
    parts += [_failures(lists), *(_table(which, lists[which]) for which in TITLES if which in lists)]
    target.write_text("\n".join(parts), encoding="utf-8")


def _totals(lists: dict[str, list[tuple[Outcome, float]]]) -> str:
    lines = ["## Totals\n", f"| list | models | {' | '.join(CHECKS)} | all | left, median |"]
    lines.append("|---|" + "---|" * (len(CHECKS) + 3))
    for which in (*(name for name in TITLES if name in lists), "total"):
        outcomes = [o for name, entries in lists.items() if which in (name, "total") for o, _ in entries]
        cells = []
        for check in CHECKS:
            states = Counter(o.checks[check].state if check in o.checks else "absent" for o in outcomes)
            cells.append(f"{states['ok']}" + (f" + {states['unable']} –" if states["unable"] else ""))
        left = sorted(o.left for o in outcomes if o.left is not None) or [1.0]
        whole = sum(not o.failures for o in outcomes)
        lines.append(
            f"| {which} | {len(outcomes)} | {' | '.join(cells)} | {whole} | {left[len(left) // 2]:.0%} |"
        )
    return "\n".join(lines) + "\n"


def _failures(lists: dict[str, list[tuple[Outcome, float]]]) -> str:
    lines = ["## What failed\n"]
    for which, entries in lists.items():
        for outcome, _ in entries:
            lines += [
                f"- {which}, {outcome.name}: {check}: {_plain(why)}"
                for check, why in outcome.failures.items()
            ]
    return "\n".join(lines if len(lines) > 1 else [*lines, "Nothing."]) + "\n"


def _table(which: str, entries: list[tuple[Outcome, float]]) -> str:
    lines = [
        f"## {TITLES[which]}\n",
        f"| model | left | layers | result | {' | '.join(CHECKS)} | error | s |",
    ]
    lines.append("|---|" + "---|" * (len(CHECKS) + 5))
    for outcome, seconds in entries:
        checks = [MARKS[outcome.checks[c].state] if c in outcome.checks else "" for c in CHECKS]
        layers = "/".join(str(outcome.layers.get(state, 0)) for state in ("cut", "kept", "blocked"))
        left = "" if outcome.left is None else f"{outcome.left:.0%}"
        result = "" if outcome.left is None else "program" if outcome.rewritten else "module"
        error = "" if outcome.error is None else f"{outcome.error:.0e}"
        cells = [outcome.name, left, layers, result, *checks, error, f"{seconds:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Without what a table of Markdown would take for its own."""
    return text.replace("|", "/").replace("<", "‹").replace(">", "›").replace("*", "·")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
