"""Runs a study: every cell that is not finished, each an ordinary run in its own folder."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import nn

from kezuri.artifact.folder import RunFolder, StudyFolder
from kezuri.artifact.journal import Journal
from kezuri.artifact.manifest import Manifest
from kezuri.core.errors import Interrupted
from kezuri.core.executor import Executor, Inline, Processes
from kezuri.data import Data
from kezuri.model.load import load_model
from kezuri.recipe.listener import Listener, SilentListener
from kezuri.recipe.mask_cell import study_data
from kezuri.recipe.mask_studying import STOPPED
from kezuri.recipe.study import Cell, Layers, Plan
from kezuri.recipe.study_cell import IN_USE, Outcome, Work
from kezuri.recipe.study_record import StudyRecord
from kezuri.recipe.study_time import Clock
from kezuri.train.device import choose_device

LOOK_AGAIN = 1.0
"""Seconds until a cell that another process is at is looked at again."""


def run_study(
    plan: Plan,
    folder: Path,
    *,
    data: Data | None = None,
    data_root: Path | None = None,
    device: str = "auto",
    workers: int = 1,
    threads: int | None = None,
    listener: Listener | None = None,
) -> StudyFolder:
    """Runs what is not finished of a study; the same call goes on where an earlier one stopped.

    A cell that cannot be done is refused with the reason, and one that fails is noted; the others go on. More
    methods or seeds add to what the folder holds. Several processes may work on one study: what one is at,
    the others come back to.

    Args:
        plan: what is studied.
        folder: where its runs, the weights they share and its record lie.
        data: takes the place of the plan's data.
        data_root: the folder data sets lie in.
        device: `auto`, `cpu`, `cuda`, …
        workers: how many cells are done at once; more than one are processes of one thread each, beside
            which latencies are less sure.
        threads: for training in this process.
        listener: hears a sentence a cell, and how trainings go.

    Raises:
        DataError: the data is missing or damaged.
        UsageError: there is no such device, the student cannot be built, a setting is out of range, or the
            folder holds a study with other settings.
        Interrupted, ResourceError: the study stopped, and the same call goes on.
    """
    choose_device(device)
    executor: Executor = Inline() if workers == 1 else Processes(workers)
    listener = listener or SilentListener()
    study_data.cache_clear()  # a folder of images may have changed since
    found = data if data is not None else study_data(plan.data, data_root)
    student = load_model(plan.student.spec, classes=len(found.classes), image_shape=found.image_shape)
    home = StudyFolder(folder)
    record = StudyRecord(home, layers_of(student))
    record.begin(plan)
    alone = workers == 1
    work = Work(
        home,
        data,
        plan.data,
        data_root,
        device,
        threads=threads if alone else None,
        listener=listener if alone else None,
    )
    study = _Study(record, record.grid(plan), Clock(plan, found, device, workers=workers), listener)
    try:
        study.run(work, executor)
    except (Interrupted, KeyboardInterrupt) as error:
        raise Interrupted(STOPPED) from error
    return home


def layers_of(model: nn.Module) -> Layers:
    """The names of a model's convolutions and dense layers."""
    named = list(model.named_modules())
    return Layers(
        conv=tuple(name for name, module in named if isinstance(module, nn.Conv2d)),
        dense=tuple(name for name, module in named if isinstance(module, nn.Linear)),
    )


class _Study:
    """The cells that are asked for, and what is told of them."""

    def __init__(self, record: StudyRecord, cells: Sequence[Cell], clock: Clock, listener: Listener) -> None:
        self.record, self.cells, self.clock, self.listener = record, cells, clock, listener
        self.folder = record.folder
        self.told = 0

    def run(self, work: Work, executor: Executor) -> None:
        """Does what is left: in passes, for cells that wait for others or for another process."""
        known = self.record.outcomes()
        done = [cell for cell in self.cells if known[cell.name, cell.seed].status == "finished"]
        ahead = [cell for cell in self.cells if cell not in done and cell.refused is None]
        if ahead:
            has = f", {len(done)} of them done" if done else ""
            self.listener.say(f"{len(self.cells)} runs{has}; {self.clock.begin(ahead)}")
        left = list(self.cells)
        with executor.staying() as pool:
            while left:
                left = self._pass(work, pool, left)

    def _pass(self, work: Work, pool: Executor, left: list[Cell]) -> list[Cell]:
        """Does the cells whose weights are there; returns those to come back to."""
        given: list[Cell] = []
        busy: list[Cell] = []
        for place, outcome in pool.completed(work, self._ready(left, given)):
            if outcome.status == IN_USE:
                busy.append(given[place])
            else:
                self._end(given[place], outcome)
        if given and len(busy) == len(given):
            time.sleep(LOOK_AGAIN)
        if not given:
            for cell in left:
                self._end(cell, Outcome("failed", reason=self._lacking(cell)))
            return []
        return [cell for cell in self.cells if cell in busy or cell in left]

    def _ready(self, left: list[Cell], given: list[Cell]) -> Iterator[Cell]:
        """The cells of `left` whose weights are there, looked for each time there is room for one more."""
        while (cell := next((one for one in left if not self._missing(one)), None)) is not None:
            left.remove(cell)
            given.append(cell)
            yield cell

    def _missing(self, cell: Cell) -> list[str]:
        return [name for name in cell.needs if not (self.folder.path / name).is_file()]

    def _lacking(self, cell: Cell) -> str:
        whose = " and ".join(Path(name).stem.rpartition("-")[0] for name in self._missing(cell))
        return f"needs the weights of {whose}, whose training failed"

    def _end(self, cell: Cell, outcome: Outcome) -> None:
        self.record.note(cell, outcome)
        self.told += 1
        place = f"{self.told}/{len(self.cells)}"
        ahead = self.clock.done(cell)
        self.listener.say(f"{place:>7}  {cell.name}, seed {cell.seed}: {self._words(outcome)}{ahead}")

    def _words(self, outcome: Outcome) -> str:
        if outcome.status != "finished" or outcome.run is None:
            return f"{outcome.status}: {outcome.reason}"
        home = RunFolder(self.folder.path / outcome.run)
        rows = [m for m in Journal(home.measurements).read() if m.conditions.get("model") == "final"]
        right = {m.conditions["split"]: m.value for m in rows if m.metric == "accuracy"}
        size = next(m.value for m in rows if m.metric == "size" and m.conditions["format"] == "onnx")
        split = "test" if "test" in right else "validation"
        seconds = Manifest(home).read().get("seconds", 0.0)
        return f"{right[split]:.2%} {split} accuracy, {size / 1e3:.1f} kB, {seconds:.0f} s"
