"""The record of a study: what is studied and what became of each cell. Several processes write into it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kezuri.artifact.atomic import read_json, write_json
from kezuri.artifact.folder import RECIPE_JSON, StudyFolder
from kezuri.artifact.lock import locked
from kezuri.core.errors import CorruptArtifact, UsageError
from kezuri.recipe.build import plain
from kezuri.recipe.study import METHODS, Cell, Layers, Plan, cells
from kezuri.recipe.study_cell import Outcome, to_json

GROWING = ("methods", "seeds")
"""What may differ between two calls on one study: it then holds both."""

Key = tuple[str, int]


class StudyRecord:
    """`study.json`, which only ever gains: cells that were asked for before stay, with what became of them.

    Args:
        folder: of the study.
        layers: of the student.
    """

    def __init__(self, folder: StudyFolder, layers: Layers) -> None:
        self.folder, self.layers = folder, layers

    def grid(self, plan: Plan) -> tuple[Cell, ...]:
        """The cells of a plan."""
        return cells(plan, self.layers)

    def begin(self, plan: Plan) -> None:
        """Adds what is asked for to what is known.

        Raises:
            UsageError: the folder holds a study with other settings, which are named.
            CorruptArtifact: the record cannot be read.
        """
        with locked(self.folder.path, wait=True):
            known = self._read()
            whole = plan if known is None else self._joined(plan, known["plan"])
            held = [] if known is None else known["cells"]
            self._write(whole, self._merged(whole, held, asked={_key(cell) for cell in self.grid(plan)}))

    def note(self, cell: Cell, outcome: Outcome) -> None:
        """Writes down what became of one cell; what others wrote stays."""
        with locked(self.folder.path, wait=True):
            known = self._read()
            if known is None:
                raise CorruptArtifact(f"{self.folder.record} was removed while its study went on")
            told = to_json(cell, outcome)
            rows = [told if _key(row) == _key(told) else row for row in known["cells"]]
            write_json(self.folder.record, {**known, "cells": rows})

    def outcomes(self) -> dict[Key, Outcome]:
        """What became of each cell, by name and seed."""
        known = self._read()
        rows = [] if known is None else known["cells"]
        return {_key(row): Outcome(row["status"], row["run"], row["reason"]) for row in rows}

    def _read(self) -> dict[str, Any] | None:
        if not self.folder.record.is_file():
            return None
        known = read_json(self.folder.record)
        if not isinstance(known, dict) or not {"plan", "cells"} <= known.keys():
            raise CorruptArtifact(f"{self.folder.record} does not hold a study")
        return known

    def _joined(self, plan: Plan, known: Mapping[str, Any]) -> Plan:
        """The plan that holds both."""
        asked = json.loads(json.dumps(plain(plan)))
        fixed = [name for name in asked if name in known and name not in GROWING]
        other = [name for name in fixed if asked[name] != known[name]]
        if other:
            there = ", ".join(f"{name} {_spell(known[name])}" for name in other)
            here = ", ".join(f"{name} {_spell(asked[name])}" for name in other)
            raise UsageError(
                f"{self.folder.path} holds a study with {there}; this one has {here}: "
                f"give it a folder of its own (--name), or ask for the same"
            )
        both = {*plan.methods, *known.get("methods", ())}
        seeds = max(plan.seeds, int(known.get("seeds", 1)))
        return replace(plan, methods=tuple(name for name in METHODS if name in both), seeds=seeds)

    def _merged(self, plan: Plan, held: Sequence[Mapping[str, Any]], asked: set[Key]) -> list[dict[str, Any]]:
        """The cells of both in the order of the grid; a finished one whose run was removed is to do again."""
        known = {_key(row): dict(row) for row in held}
        for key, row in known.items():
            if row["status"] == "finished" and not (self.folder.path / row["run"] / RECIPE_JSON).is_file():
                known[key] = {**row, "status": "not started", "run": None}
        rows = []
        for cell in self.grid(plan):
            fresh = Outcome() if cell.refused is None else Outcome("refused", reason=cell.refused)
            key = _key(cell)
            if key in known or key in asked:
                row = known.pop(key, to_json(cell, fresh))
                rows.append(to_json(cell, fresh) if cell.refused else row)
        return [*rows, *known.values()]

    def _write(self, plan: Plan, rows: Sequence[Mapping[str, Any]]) -> None:
        write_json(self.folder.record, {"plan": plain(plan), "cells": list(rows)})


def _key(cell: Cell | Mapping[str, Any]) -> Key:
    return (cell.name, cell.seed) if isinstance(cell, Cell) else (str(cell["name"]), int(cell["seed"]))


def _spell(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
