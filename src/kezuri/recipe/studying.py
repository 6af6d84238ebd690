"""Runs a study: every cell that is not finished, each an ordinary run in its own folder."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from kezuri.artifact.atomic import write_bytes, write_json
from kezuri.artifact.folder import RunFolder, StudyFolder
from kezuri.artifact.journal import Journal
from kezuri.artifact.manifest import Manifest
from kezuri.core.errors import Interrupted, KezuriError, ResourceError, UsageError
from kezuri.data import Data, load_data
from kezuri.model.load import load_model
from kezuri.recipe.build import plain
from kezuri.recipe.listener import Listener, SilentListener
from kezuri.recipe.prepare import prepare
from kezuri.recipe.recipe import recipe_from_json
from kezuri.recipe.run import run
from kezuri.recipe.study import Cell, Layers, Plan, cells


@dataclass
class _Entry:
    """What became of a cell, as the study's file has it."""

    cell: Cell
    status: str = "not started"
    run: str | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        kept = {name: getattr(self.cell, name) for name in ("name", "method", "seed", "epochs")}
        return {**kept, "status": self.status, "run": self.run, "reason": self.reason}


def run_study(
    plan: Plan,
    folder: Path,
    *,
    data: Data | None = None,
    data_root: Path | None = None,
    device: str = "auto",
    listener: Listener | None = None,
    threads: int | None = None,
) -> StudyFolder:
    """Runs what is not finished of a study; the same call goes on where an earlier one stopped.

    A cell that cannot be done is refused with the reason, and one that fails is noted; the others go on.

    Args:
        plan: what is studied.
        folder: where its runs, the weights they share and its record lie.
        data: takes the place of the plan's data.
        data_root: the folder data sets lie in.
        device: `auto`, `cpu`, `cuda`, …
        listener: hears a sentence a cell, and how trainings go.
        threads: for training.

    Raises:
        DataError: the data is missing or damaged.
        UsageError: the student cannot be built, or a setting is out of range.
        Interrupted, ResourceError: the study stopped, and the same call goes on.
    """
    found = data if data is not None else load_data(plan.data, root=data_root)
    student = load_model(plan.student.spec, classes=len(found.classes), image_shape=found.image_shape)
    study = Study(StudyFolder(folder), cells(plan, layers_of(student)), plan, listener or SilentListener())
    study.run(found, data_root=data_root, device=device, threads=threads)
    return study.folder


def layers_of(model: nn.Module) -> Layers:
    """The names of a model's convolutions and dense layers."""
    named = list(model.named_modules())
    return Layers(
        conv=tuple(name for name, module in named if isinstance(module, nn.Conv2d)),
        dense=tuple(name for name, module in named if isinstance(module, nn.Linear)),
    )


class Study:
    """The cells of a study and what became of them.

    Args:
        folder: of the study.
        grid: its cells, in order.
        plan: what they were made from.
        listener: hears what happens.
    """

    def __init__(self, folder: StudyFolder, grid: Sequence[Cell], plan: Plan, listener: Listener) -> None:
        self.folder, self.plan, self.listener = folder, plan, listener
        self.entries = [
            _Entry(cell, status="not started" if cell.refused is None else "refused", reason=cell.refused)
            for cell in grid
        ]

    def run(self, data: Data, *, data_root: Path | None, device: str, threads: int | None) -> None:
        """Does what is left."""
        self._note()
        for number, entry in enumerate(self.entries, start=1):
            if entry.status != "refused":
                self._do(entry, data, data_root=data_root, device=device, threads=threads)
                self._note()
            place, cell = f"{number}/{len(self.entries)}", entry.cell
            self.listener.say(f"{place:>7}  {cell.name}, seed {cell.seed}: {self._told(entry)}")

    def _do(
        self, entry: _Entry, data: Data, *, data_root: Path | None, device: str, threads: int | None
    ) -> None:
        cell = entry.cell
        missing = [name for name in cell.needs if not (self.folder.path / name).is_file()]
        if missing:
            whose = " and ".join(Path(name).stem.rpartition("-")[0] for name in missing)
            entry.status, entry.reason = "failed", f"needs the weights of {whose}, whose training failed"
            return
        recipe = recipe_from_json(dict(cell.recipe), f"study, {cell.name}")
        try:
            prepared = prepare(recipe, data=data, data_root=data_root, device=device, near=self.folder.path)
            home = RunFolder(self.folder.runs / prepared.run_name)
            entry.run = str(home.path.relative_to(self.folder.path))
            run(
                prepared,
                runs=self.folder.runs,
                listener=_Trainings(self.listener),
                as_written=yaml.safe_dump(plain(cell.recipe), sort_keys=False),
                threads=threads,
            )
        except Interrupted as error:
            raise Interrupted("stopped; nothing is lost, the same command goes on") from error
        except ResourceError:
            raise
        except KezuriError as error:
            begun = entry.run is not None and home.stages.exists()
            entry.status = "refused" if isinstance(error, UsageError) and not begun else "failed"
            entry.reason = str(error)
            return
        entry.status, entry.reason = "finished", None
        if cell.weights is not None:
            weights = home.model("final") / "model.safetensors"
            write_bytes(self.folder.path / cell.weights, weights.read_bytes())

    def _told(self, entry: _Entry) -> str:
        if entry.status != "finished" or entry.run is None:
            return f"{entry.status}: {entry.reason}"
        home = RunFolder(self.folder.path / entry.run)
        rows = [m for m in Journal(home.measurements).read() if m.conditions.get("model") == "final"]
        right = {m.conditions["split"]: m.value for m in rows if m.metric == "accuracy"}
        size = next(m.value for m in rows if m.metric == "size" and m.conditions["format"] == "onnx")
        split = "test" if "test" in right else "validation"
        seconds = Manifest(home).read().get("seconds", 0.0)
        return f"{right[split]:.2%} {split} accuracy, {size / 1e3:.1f} kB, {seconds:.0f} s"

    def _note(self) -> None:
        rows: Iterable[Mapping[str, Any]] = [entry.to_json() for entry in self.entries]
        write_json(self.folder.record, {"plan": plain(self.plan), "cells": list(rows)})


@dataclass
class _Trainings(SilentListener):
    """Passes on how trainings go; what a single run says is in its folder."""

    listener: Listener

    def start(self, task: str, *, total: int, done: int) -> None:
        """A training begins."""
        self.listener.start(task, total=total, done=done)

    def advance(self, steps: int, figures: Mapping[str, float]) -> None:
        """Some steps were made."""
        self.listener.advance(steps, figures)

    def done(self) -> None:
        """The training ended."""
        self.listener.done()
