"""One run, finished or not, read from its folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kezuri.artifact.atomic import read_json
from kezuri.artifact.folder import RunFolder
from kezuri.artifact.journal import Journal
from kezuri.artifact.manifest import Manifest
from kezuri.core.errors import CorruptArtifact
from kezuri.core.goal import LAX
from kezuri.core.measurement import Measurement

# What a comparison does not show, most of it one line a layer or a class: not worth parsing a thousand times.
DETAILS = tuple(
    f'{{"metric": "{name}"' for name in ("bits", "channels", "class_damage", "loss", "memory", "efficiency")
)
SPLITS = ("test", "validation")
FORMATS = ("safetensors", "onnx", "onnx.xz")


@dataclass(frozen=True)
class Round:
    """One attempt at a round of cutting and retraining; round 0 is the dense model.

    Attributes:
        rate: fraction of the channels the round was asked to cut.
        lr_ratio: learning rate of the retraining, as a fraction of the first one.
        params, macs: counts. zeros: fraction of the weights, where some may be masked. size: bytes.
        seconds: how long the attempt took.
        verdict: "dense", "accepted", "rolled back", "stopped", or "" while undecided.
    """

    round: int
    attempt: int = 0
    rate: float | None = None
    lr_ratio: float | None = None
    params: float | None = None
    macs: float | None = None
    zeros: float | None = None
    size: float | None = None
    train: Measurement | None = None
    validation: Measurement | None = None
    seconds: float | None = None
    verdict: str = ""
    why: str = ""

    @property
    def stands(self) -> bool:
        """Whether the model of this attempt was kept."""
        return self.verdict in ("dense", "accepted")

    @classmethod
    def of(cls, rows: Sequence[Measurement], decision: Mapping[str, Any]) -> "Round":
        """The round that some measurements were taken in.

        Args:
            rows: of one attempt.
            decision: what was decided about it: `round`, `attempt`, `verdict`, `why`.
        """
        said: dict[str, Any] = {}
        for row in rows:
            said.update(row.conditions)
        whole = {m.metric: m.value for m in rows if m.metric in ("params", "macs", "seconds")}
        sizes = {m.conditions.get("format", "safetensors"): m.value for m in rows if m.metric == "size"}
        accuracy = {m.conditions.get("split"): m for m in rows if m.metric == "accuracy"}
        zeros = {m.conditions["of"]: m.value for m in rows if m.metric == "sparsity"}
        return cls(
            round=decision["round"],
            attempt=decision["attempt"],
            rate=said.get("rate"),
            lr_ratio=said.get("lr_ratio"),
            params=whole.get("params"),
            macs=whole.get("macs"),
            zeros=zeros.get("weights"),
            size=next((sizes[name] for name in FORMATS if name in sizes), None),
            train=accuracy.get("train"),
            validation=accuracy.get("validation"),
            seconds=whole.get("seconds"),
            verdict=_verdict(decision["round"], said, decision),
            why=str(decision.get("why") or ""),
        )


@dataclass(frozen=True)
class Layer:
    """Channels of one layer before and after, and what became of it: "cut", "kept" or "blocked"."""

    name: str
    before: int
    after: int
    state: str
    reason: str


@dataclass(frozen=True)
class RunView:
    """What the folder of one run says, without judging it."""

    path: Path
    recipe: Mapping[str, Any]
    manifest: Mapping[str, Any]
    measurements: tuple[Measurement, ...]

    @classmethod
    def read(cls, path: Path, *, details: bool = True) -> "RunView":
        """The run in a folder; a killed run gives what it got done.

        Args:
            details: False leaves out what is measured per layer and per class, for many runs at once.

        Raises:
            DataError: the folder holds no run.
            CorruptArtifact: a file of the run cannot be read.
        """
        folder = RunFolder.open(Path(path))
        recipe = read_json(folder.recipe)
        if not isinstance(recipe, dict):
            raise CorruptArtifact(f"{folder.recipe} does not hold a JSON object")
        journal = Journal(folder.measurements)
        rows = journal.read() if details else _outline(journal)
        return cls(folder.path, recipe, Manifest(folder).read(), tuple(rows))

    @property
    def name(self) -> str:
        return str(self.manifest.get("name") or self.recipe.get("name") or self.path.resolve().name)

    @property
    def status(self) -> str:
        """`running`, `finished`, `failed`, `interrupted`, or `not started`."""
        return str(self.manifest.get("status", "not started"))

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def answer(self) -> Mapping[str, Any]:
        return _mapping(self.manifest.get("answer"))

    @property
    def decisions(self) -> list[Mapping[str, Any]]:
        return _mappings(self.manifest.get("decisions"))

    @property
    def cutting(self) -> Mapping[str, Any]:
        """The settings of the step that cut: rate, rounds, lr_ratio, …; empty where the recipe has none."""
        steps = _mappings(self.recipe.get("steps"))
        return next((s for s in steps if "rate" in s or "rounds" in s or s.get("use") == "pcas"), {})

    @property
    def seconds(self) -> float | None:
        """The wall time of the whole run, or of what was recorded of it."""
        whole = self.manifest.get("seconds")
        if isinstance(whole, (int, float)):
            return float(whole)
        parts = [m.value for m in self.measurements if m.metric == "seconds"]
        return sum(parts) if parts else None

    @cached_property
    def rounds(self) -> tuple[Round, ...]:
        """Every attempt in order, round 0 (the dense model) first."""
        taken: dict[tuple[int, int], list[Measurement]] = {}
        for row in self.measurements:
            if (key := _turn(row.conditions)) is not None:
                taken.setdefault(key, []).append(row)
        decided = {key: entry for entry in self.decisions if (key := _turn(entry)) is not None}
        return tuple(
            Round.of(taken[key], {**decided.get(key, {}), "round": key[0], "attempt": key[1]})
            for key in sorted(taken)
        )

    @property
    def floor(self) -> float | None:
        """The validation accuracy the goal asks to keep, as a fraction; None where it holds none."""
        asked = _mapping(self.recipe.get("goal")).get("accuracy")
        if not isinstance(asked, (int, float)) or asked <= LAX:
            return None
        if asked > 0:
            return float(asked)
        start = self.dense("accuracy", split="validation")
        return None if start is None else start.value + asked

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer of the model with its channels; needs `details` only where the manifest has no cuts."""
        cuts = _mappings(self.manifest.get("cuts"))
        if cuts:
            return tuple(_layer(entry) for entry in cuts)
        found: dict[str, Layer] = {}
        for row in self.measurements:
            said = row.conditions
            if row.metric == "channels" and "layer" in said and said.get("accepted", True):
                before, after = int(said.get("before", row.value)), int(row.value)
                state = "cut" if after < before else "kept"
                found[str(said["layer"])] = Layer(str(said["layer"]), before, after, state, "")
        return tuple(found.values())

    @cached_property
    def allocation(self) -> Mapping[str, Any]:
        """The bits of each layer under a budget, with the choices that no other beats; empty without one."""
        path = RunFolder(self.path).allocation
        return _mapping(read_json(path)) if path.exists() else {}

    @property
    def damage(self) -> list[tuple[str, float]]:
        """(class name, accuracy lost as a fraction) of the final model, the worst first."""
        lost = {
            str(m.conditions.get("class_name", "")): m.value
            for m in self.measurements
            if m.metric == "class_damage" and m.conditions.get("model", "final") == "final"
        }
        return sorted(lost.items(), key=lambda entry: (-entry[1], entry[0]))

    def find(self, metric: str, **conditions: Any) -> Measurement | None:
        """The latest measurement of `metric` that has all these conditions."""
        matches = (m for m in reversed(self.measurements) if m.metric == metric)
        return next(
            (m for m in matches if all(m.conditions.get(k) == v for k, v in conditions.items())), None
        )

    def dense(self, metric: str, **conditions: Any) -> Measurement | None:
        """A measurement of the model before anything was cut."""
        found = self.find(metric, model="dense", **conditions)
        return found or self.find(metric, round=0, **conditions)

    def final(self, metric: str, **conditions: Any) -> Measurement | None:
        """A measurement of the compressed model; of the last accepted round while the run has not ended."""
        found = self.find(metric, model="final", **conditions)
        standing = [entry for entry in self.rounds if entry.verdict == "accepted"]
        if found is not None or self.finished or not standing:
            return found
        last = (standing[-1].round, standing[-1].attempt)
        taken = [m for m in self.measurements if _turn(m.conditions) == last]
        return replace(self, measurements=tuple(taken)).find(metric, **conditions)

    @property
    def proof(self) -> Measurement | None:
        """The largest error of all cuts that stand, each on random inputs; None where nothing was cut."""
        found = [
            m
            for m in self.measurements
            if m.metric == "proof_error"
            and (m.conditions.get("accepted") or m.conditions.get("model") == "final")
        ]
        return max(found, key=lambda m: m.value, default=None)

    @property
    def split(self) -> str:
        """The split whose accuracy is shown: `test` where both models have it, else `validation`."""
        both = (s for s in SPLITS if self.dense("accuracy", split=s) and self.final("accuracy", split=s))
        return next(both, "test" if self.final("accuracy", split="test") else "validation")

    @property
    def size_format(self) -> str | None:
        """The file format that sizes are compared in: the exported one once there is one, else weights."""
        for name in ("onnx", *FORMATS):
            if self.dense("size", format=name) and self.final("size", format=name):
                return name
        return None


def _outline(journal: Journal) -> list[Measurement]:
    if not journal.path.exists():
        return []
    try:
        lines = journal.path.read_text(encoding="utf-8").splitlines()
        kept = ",".join(line for line in lines if line and not line.startswith(DETAILS))
        return [Measurement.from_json(row) for row in json.loads(f"[{kept}]")]
    except (ValueError, TypeError):
        # Reads line by line and so can name the line that is wrong.
        return journal.read()


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _turn(said: Mapping[str, Any]) -> tuple[int, int] | None:
    number, attempt = said.get("round"), said.get("attempt", 0)
    return (number, attempt) if isinstance(number, int) and isinstance(attempt, int) else None


def _verdict(number: int, said: Mapping[str, Any], decision: Mapping[str, Any]) -> str:
    if number == 0:
        return "dense"
    decided = str(decision.get("verdict") or "")
    if "accepted" not in said:
        return decided
    if said["accepted"]:
        return "accepted"
    return "stopped" if decided == "stopped" else "rolled back"


def _layer(entry: Mapping[str, Any]) -> Layer:
    before = int(entry.get("before") or 0)
    after = int(before if entry.get("after") is None else entry["after"])
    state = str(entry.get("state") or ("cut" if after < before else "kept"))
    return Layer(str(entry.get("layer", "")), before, after, state, str(entry.get("reason") or ""))
