"""Run folders as the loop leaves them: a recipe, a manifest and a journal, with one attempt rolled back."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kezuri.artifact.folder import RunFolder
from kezuri.artifact.journal import Journal
from kezuri.artifact.manifest import Manifest, environment
from kezuri.core.measurement import Measurement

CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


@dataclass(frozen=True)
class Story:
    """What happened in a run that never was: enough to write every file of its folder."""

    name: str = "fashion-resnet20"
    seed: int = 0
    rate: Any = 0.3
    lr_ratio: float = 0.2
    rounds: int = 5
    rolled_back: Sequence[int] = (4,)
    layers: int = 24
    classes: Sequence[str] = CLASSES
    status: str = "finished"
    accuracy: float = 0.9312
    drop: float = 0.004
    blocked: Sequence[int] = (0, 23)
    layer_name: str = "layer{block}.{index}.conv{part}"
    goal: dict[str, Any] = field(default_factory=lambda: {"objective": "smallest", "accuracy": -0.01})


PARAMS, MACS, SIZE = 272_474, 31_800_000, 1_102_000


def accuracy(value: float, samples: int, **conditions: Any) -> Measurement:
    around = 1.96 * (value * (1 - value) / samples) ** 0.5
    return Measurement("accuracy", value, "fraction", value - around, value + around, samples, conditions)


def _round(story: Story, number: int, attempt: int, *, accepted: bool) -> list[Measurement]:
    left = 0.7 ** (number - (0 if accepted else -1))
    said: dict[str, Any] = {"model": "round", "round": number, "attempt": attempt, "accepted": accepted}
    if number:
        said |= {"rate": 0.3 if not attempt else 0.15, "lr_ratio": story.lr_ratio}
    proof = 3.1e-7 if number == 2 else 1.2e-7 if accepted else 9e-7
    worse = story.drop * number / story.rounds if accepted else 0.021
    return [
        Measurement("params", int(PARAMS * left), "count", conditions=said),
        Measurement("macs", int(MACS * left**0.8), "count", conditions=said),
        Measurement("size", int(SIZE * left), "bytes", conditions={**said, "format": "safetensors"}),
        *([Measurement("proof_error", proof, "relative", samples=4, conditions=said)] if number else []),
        accuracy(story.accuracy - worse, 5000, split="validation", **said),
        accuracy(story.accuracy + 0.035 - 2 * worse, 45000, split="train", **said),
        Measurement("seconds", 41.5 - 3 * number, "s", conditions=said),
    ]


def _layer_name(story: Story, index: int) -> str:
    if index == 0:
        return "conv1"
    return story.layer_name.format(block=1 + 3 * index // story.layers, index=index // 2, part=1 + index % 2)


def _cuts(story: Story) -> list[dict[str, Any]]:
    cuts = []
    for index in range(story.layers):
        before = 16 * 2 ** (3 * index // story.layers)
        after, state, reason = before * (3 + index % 7) // 12, "cut", ""
        if index in story.blocked:
            after, state, reason = before, "blocked", "joins the network's output, whose classes must stay"
        elif index % 9 == 4:
            after, state = before, "kept"
        name = _layer_name(story, index)
        cuts.append({"layer": name, "before": before, "after": after, "state": state, "reason": reason})
    return cuts


def _model(story: Story, model: str) -> list[Measurement]:
    left = 1.0 if model == "dense" else 0.7**story.rounds
    value = story.accuracy - 0.002 - (0 if model == "dense" else story.drop)
    rows = [
        accuracy(value, 10000, split="test"),
        accuracy(value + 0.002, 5000, split="validation"),
        Measurement("loss", 0.21, "nats", conditions={"split": "test"}),
        Measurement("params", int(PARAMS * left), "count"),
        Measurement("macs", int(MACS * left**0.8), "count"),
        Measurement("efficiency", value * 100 / (SIZE * left / 1e6), "%/MB"),
        Measurement("memory", 38e6 + 9e6 * left, "bytes", conditions={"runtime": "onnxruntime"}),
    ]
    for kind, factor in (("safetensors", 1.0), ("onnx", 1.02), ("onnx.xz", 0.91)):
        rows.append(Measurement("size", int(SIZE * left * factor), "bytes", conditions={"format": kind}))
    for threads, milliseconds in ((1, 1.9), ("all", 1.2)):
        value = milliseconds * left**0.6
        said = {"runtime": "onnxruntime", "threads": threads, "batch": 1}
        rows.append(Measurement("latency", value, "ms", value * 0.96, value * 1.13, 200, said))
    return [row.under(model=model) for row in rows]


def _end(story: Story) -> list[Measurement]:
    said = {"model": "final"}
    rows = _model(story, "final")
    rows.append(Measurement("parity_agreement", 1.0, "fraction", samples=1000, conditions=said))
    rows.append(Measurement("parity_error", 4.7e-6, "absolute", conditions=said))
    rows.append(Measurement("flipped", 0.031, "fraction", samples=10000, conditions=said))
    for index, name in enumerate(story.classes):
        lost = (0.031, -0.004, 0.012, 0.003, 0.008, 0.0, 0.022, -0.001, 0.002, 0.001)[index % 10]
        rows.append(Measurement("class_damage", lost, "fraction", conditions={**said, "class_name": name}))
    for cut in _cuts(story):
        where = {**said, "layer": cut["layer"], "before": cut["before"]}
        rows.append(Measurement("channels", cut["after"], "count", conditions=where))
    return rows


def write_run(path: Path, story: Story | None = None) -> Path:
    """Writes the folder of a run and returns it."""
    story = story or Story()
    path.mkdir(parents=True)
    folder = RunFolder(path)
    cutting = {"use": "pcas", "rate": story.rate, "rounds": story.rounds, "lr_ratio": story.lr_ratio}
    recipe = {
        "name": story.name,
        "seed": story.seed,
        "model": {"use": "resnet20"},
        "data": {"use": "fashion-mini"},
        "goal": story.goal,
        "steps": [
            {"use": "train", "epochs": 20, "lr": 0.1, "batch_size": 128},
            {**cutting, "epochs": 5, "lr": 0.1, "batch_size": 128, "attention_epochs": 2},
        ],
    }
    folder.recipe.write_text(json.dumps(recipe))
    folder.recipe_as_written.write_text(f"name: {json.dumps(story.name)}\nmodel: {{use: resnet20}}\n")
    rows = [("dense", _model(story, "dense")), ("round-0", _round(story, 0, 0, accepted=True))]
    decisions = []
    for number in range(1, story.rounds + 1):
        attempts = 1 if number not in story.rolled_back else 2
        for attempt in range(attempts):
            accepted = attempt == attempts - 1
            why = "keeps the floor" if accepted else "validation accuracy 91.0 % is below the floor 92.1 %"
            verdict = "accepted" if accepted else "rolled back"
            decisions.append({"round": number, "attempt": attempt, "verdict": verdict, "why": why})
            rows.append((f"round-{number}-{attempt}", _round(story, number, attempt, accepted=accepted)))
    if story.status == "finished":
        rows.append(("final", _end(story)))
    lines = [row.under(stage=stage) for stage, stage_rows in rows for row in stage_rows]
    text = "".join(json.dumps(line.to_json(), ensure_ascii=False) + "\n" for line in lines)
    folder.measurements.write_text(text, encoding="utf-8")
    assert len(Journal(folder.measurements).read()) == len(lines)
    _write_manifest(folder, story, decisions)
    return path


def _write_manifest(folder: RunFolder, story: Story, decisions: list[dict[str, Any]]) -> None:
    ended = {
        "answer": {
            "text": "5.9× fewer parameters at −0.4 points",
            "met": True,
            "stop": "rounds",
            "stop_why": f"all {story.rounds} rounds were run",
        },
        "seconds": 4 * 3600 + 120.0 + story.seed,
        "cuts": _cuts(story),
    }
    Manifest(folder).update(
        name=story.name,
        fingerprint="9f2c41d07ab3",
        status=story.status,
        **environment(),
        threads=1,
        seed=story.seed,
        data={"name": "fashion-mini", "classes": list(story.classes), "train": 45000, "validation": 5000},
        decisions=decisions,
        **(ended if story.status == "finished" else {}),
    )
    Manifest(folder).seal(folder.recipe, folder.measurements)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """`make_run("a", seed=1, …)` writes the run of a `Story` into a new folder."""

    def make(folder: str = "run", **changes: Any) -> Path:
        return write_run(tmp_path / folder, Story(**changes))

    return make
