"""A study, finished or not: its cells over the seeds as rows of one table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from kezuri.artifact.atomic import read_json
from kezuri.artifact.folder import StudyFolder
from kezuri.core.errors import CorruptArtifact
from kezuri.report.compare import (
    Comparison,
    Condition,
    Spread,
    common_split,
    condition_of,
    mark_front,
    spread_over,
)
from kezuri.report.reading import RunView

PLAN = ("data", "epochs", "seeds")
"""What every plan says."""

BASE = "student"
"""The row that the others begin with."""

LONGER = "student-longer"
"""The student trained for as long as those that distil: what the others have to be better than."""

Metric = Literal["accuracy", "size", "latency", "zeros", "params", "macs"]


@dataclass(frozen=True)
class Row:
    """One cell of the grid over all seeds.

    Attributes:
        epochs: of the model and its assistant in all, without the teacher's.
        condition: of its finished runs; None where there are none.
        packed: bytes of the file after xz, in which zeros take no room.
        efficiency: accuracy in per cent for each megabyte of file.
        seeds: that it is a mean over.
        status: `finished`, `refused`, `failed`, `not started`; several where seeds differ.
        reason: why it was refused or failed.
    """

    name: str
    method: str
    epochs: float
    condition: Condition | None
    packed: Spread | None
    efficiency: Spread | None
    seeds: tuple[int, ...]
    status: str
    reason: str

    def of(self, metric: Metric) -> Spread | None:
        """What was measured of it; None where nothing was."""
        found: Spread | None = None if self.condition is None else getattr(self.condition, metric)
        return found


@dataclass(frozen=True)
class StudyView:
    """What the folder of a study says.

    Attributes:
        plan: what is studied, as plain data.
        split: the part of the data that accuracy is shown for.
        done, asked: runs that are finished, and runs that can be done at all.
    """

    path: Path
    plan: Mapping[str, Any]
    rows: tuple[Row, ...]
    split: str
    done: int
    asked: int

    @classmethod
    def read(cls, path: Path) -> "StudyView":
        """The study in a folder.

        Raises:
            DataError: the folder holds no study.
            CorruptArtifact: a file of it cannot be read.
        """
        folder = StudyFolder(path)
        content = read_json(folder.record)
        try:
            plan, entries = content["plan"], content["cells"]
            if lacking := [name for name in PLAN if name not in plan]:
                raise CorruptArtifact(f"{folder.record}: its plan lacks {' and '.join(lacking)}")
            done = _seeds_done(entries)
            ended = {
                entry["run"]: RunView.read(path / entry["run"])
                for entry in entries
                if entry["status"] == "finished" and entry["seed"] in done
            }
            split = common_split(ended.values())
            able = [entry for entry in entries if entry["status"] != "refused"]
            finished = sum(entry["status"] == "finished" for entry in entries)
            names = dict.fromkeys(entry["name"] for entry in entries)
            rows = [_row([e for e in entries if e["name"] == name], ended, split) for name in names]
        except (KeyError, TypeError) as error:
            raise CorruptArtifact(f"{folder.record} does not hold a study: {error!r}") from error
        measured = [row.condition for row in rows if row.condition is not None]
        marked = {condition.name: condition for condition in mark_front(measured)}
        shown = tuple(replace(row, condition=marked.get(row.name)) for row in rows)
        return cls(path, plan, shown, split, finished, len(able))

    def row(self, name: str) -> Row | None:
        """The row of this name, if it was measured."""
        return next((row for row in self.rows if row.name == name and row.condition is not None), None)

    @property
    def reference(self) -> Row | None:
        """The row that points are counted against: the student trained for longer, where there is one."""
        return self.row(LONGER) or self.row(BASE)

    @property
    def unfinished(self) -> bool:
        """Whether there are runs that nobody has come to yet."""
        return any("not started" in row.status for row in self.rows)

    def asks_for(self, *methods: str) -> bool:
        """Whether any of these methods is part of it."""
        return any(row.method in methods for row in self.rows)

    @cached_property
    def failed(self) -> tuple[str, ...]:
        """What went wrong, a sentence a row."""
        return tuple(f"{row.name}: {row.reason}" for row in self.rows if "failed" in row.status)

    @property
    def comparison(self) -> Comparison:
        """The measured rows as conditions, for charts."""
        able = tuple(row.condition for row in self.rows if row.condition is not None)
        return Comparison(able, self.split, None, None)


def _seeds_done(entries: Sequence[Mapping[str, Any]]) -> set[int]:
    """The seeds that every row has, so that rows are means over the same ones.

    Rows that no seed finished do not count. While there is no such seed, the one that most rows have.
    """
    has: dict[int, set[str]] = {entry["seed"]: set() for entry in entries}
    for entry in entries:
        if entry["status"] == "finished":
            has[entry["seed"]].add(entry["name"])
    able = set().union(*has.values())
    whole = {seed for seed, names in has.items() if names >= able}
    return whole or {max(has, key=lambda seed: (len(has[seed]), -seed))} if able else set()


def _row(entries: Sequence[Mapping[str, Any]], ended: Mapping[str, RunView], split: str) -> Row:
    first = entries[0]
    counted = [entry for entry in entries if entry["run"] in ended]
    runs = [ended[entry["run"]] for entry in counted]
    reasons = dict.fromkeys(str(entry["reason"]) for entry in entries if entry["reason"])
    return Row(
        name=first["name"],
        method=first["method"],
        epochs=first["epochs"],
        condition=condition_of(runs, split) if runs else None,
        packed=_over(runs, "size", format="onnx.xz"),
        efficiency=_over(runs, "efficiency"),
        seeds=tuple(entry["seed"] for entry in counted),
        status=", ".join(dict.fromkeys(entry["status"] for entry in entries)),
        reason="; ".join(reasons),
    )


def _over(runs: Sequence[RunView], metric: str, **conditions: Any) -> Spread | None:
    found = [run.final(metric, **conditions) for run in runs]
    return spread_over([Spread(m.value, m.low, m.high) for m in found if m is not None])
