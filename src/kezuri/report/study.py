"""A study, finished or not: its cells over the seeds as rows of one table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kezuri.artifact.atomic import read_json
from kezuri.artifact.folder import StudyFolder
from kezuri.core.errors import CorruptArtifact
from kezuri.report import numbers
from kezuri.report.compare import (
    Comparison,
    Condition,
    Spread,
    common_split,
    condition_of,
    mark_front,
    spread_over,
)
from kezuri.report.grid import Cell, Column, Grid
from kezuri.report.numbers import DASH, PLUS_MINUS
from kezuri.report.reading import RunView
from kezuri.report.tables import FRONT, spread_cell

PLAN = ("data", "epochs", "seeds")
"""What every plan says."""

BASE = "student"
"""The row that all others are compared with."""


@dataclass(frozen=True)
class Row:
    """One cell of the grid over all seeds.

    Attributes:
        epochs: of the model and its assistant in all, without the teacher's.
        condition: of its finished runs; None where there are none.
        packed: bytes of the file after xz, in which zeros take no room.
        efficiency: accuracy in per cent for each megabyte of file.
        status: `finished`, `refused`, `failed`, `not started`; several where seeds differ.
        reason: why it was refused or failed.
    """

    name: str
    method: str
    epochs: float
    condition: Condition | None
    packed: Spread | None
    efficiency: Spread | None
    status: str
    reason: str


@dataclass(frozen=True)
class StudyView:
    """What the folder of a study says.

    Attributes:
        plan: what is studied, as plain data.
        split: the part of the data that accuracy is shown for.
    """

    path: Path
    plan: Mapping[str, Any]
    rows: tuple[Row, ...]
    split: str

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
            names = dict.fromkeys(entry["name"] for entry in entries)
            rows = [_row([e for e in entries if e["name"] == name], ended, split) for name in names]
        except (KeyError, TypeError) as error:
            raise CorruptArtifact(f"{folder.record} does not hold a study: {error!r}") from error
        able = [row.condition for row in rows if row.condition is not None]
        marked = {condition.name: condition for condition in mark_front(able)}
        return cls(path, plan, tuple(replace(row, condition=marked.get(row.name)) for row in rows), split)

    def row(self, name: str) -> Row | None:
        """The row of this name, if it was measured."""
        return next((row for row in self.rows if row.name == name and row.condition is not None), None)

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
    runs = [ended[entry["run"]] for entry in entries if entry["run"] in ended]
    reasons = dict.fromkeys(str(entry["reason"]) for entry in entries if entry["reason"])
    return Row(
        name=first["name"],
        method=first["method"],
        epochs=first["epochs"],
        condition=condition_of(runs, split) if runs else None,
        packed=_over(runs, "size", format="onnx.xz"),
        efficiency=_over(runs, "efficiency"),
        status=", ".join(dict.fromkeys(entry["status"] for entry in entries)),
        reason="; ".join(reasons),
    )


def _over(runs: Sequence[RunView], metric: str, **conditions: Any) -> Spread | None:
    found = [run.final(metric, **conditions) for run in runs]
    return spread_over([Spread(m.value, m.low, m.high) for m in found if m is not None])


def study_table(study: StudyView) -> Grid:
    """Every row with its measurements; refused ones too."""
    base = study.row(BASE)
    measured = [row.condition.size.value for row in study.rows if row.condition and row.condition.size]
    unit, scale = numbers.size_unit(measured)
    columns = (
        Column("name", "", align="left"),
        Column("epochs", "epochs", spare=4),
        Column("accuracy", f"accuracy, {study.split} %"),
        Column("change", "points", spare=3),
        Column("size", f"ONNX {unit}"),
        Column("packed", f"xz {unit}", spare=5),
        Column("smaller", "smaller", spare=2),
        Column("efficiency", "%/MB"),
        Column("latency", "latency ms", spare=1),
        Column("params", "params", spare=6),
        Column("runs", "runs", spare=7),
        Column("status", "status", align="left"),
        Column("front", "front", align="left"),
    )
    rows = tuple(_cells(row, base.condition if base else None, scale) for row in study.rows)
    notes = (
        f"points, smaller: against {BASE}; xz: the file compressed; %/MB: accuracy for each megabyte of "
        "ONNX; latency: ONNX Runtime, one thread, one image",
        f"epochs: of the model and its assistant, without the teacher's; {PLUS_MINUS}: one standard "
        f"deviation over the seeds; front: {FRONT} no other is smaller and as accurate",
    )
    return Grid("", columns, rows, notes)


def _cells(row: Row, base: Condition | None, scale: float) -> tuple[Cell, ...]:
    c = row.condition
    if c is None:
        dashes = [Cell(DASH) for _ in range(9)]
        return Cell.word(row.name), _epochs(row), *dashes, Cell.word(row.status), Cell("")
    change = c.accuracy.value - base.accuracy.value if c.accuracy and base and base.accuracy else None
    ratio = base.size.value / c.size.value if base and base.size and c.size else None
    shown = DASH if change is None else f"{change * 100:+.2f}".replace("-", numbers.MINUS)
    return (
        Cell.word(row.name),
        _epochs(row),
        spread_cell(c.accuracy, times=100, places=2),
        Cell(shown, change),
        spread_cell(c.size, times=1 / scale),
        spread_cell(row.packed, times=1 / scale),
        Cell(numbers.times(ratio), ratio),
        spread_cell(row.efficiency),
        spread_cell(c.latency),
        Cell(numbers.count(c.params.value if c.params else None), c.params.value if c.params else None),
        Cell(str(len(c.folders)), len(c.folders)),
        Cell.word(row.status),
        Cell(FRONT, "front") if c.on_front else Cell(""),
    )


def _epochs(row: Row) -> Cell:
    return Cell(numbers.setting(row.epochs), row.epochs)


def refusals_table(study: StudyView) -> Grid:
    """What was not done, with the reason."""
    columns = (
        Column("name", "not done", align="left"),
        Column("status", "status", align="left"),
        Column("reason", "reason", align="left"),
    )
    missing = [row for row in study.rows if row.reason]
    rows = tuple((Cell.word(row.name), Cell.word(row.status), Cell.word(row.reason)) for row in missing)
    return Grid("", columns, rows)
