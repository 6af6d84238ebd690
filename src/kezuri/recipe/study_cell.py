"""One cell of a study: an ordinary run in its own folder. Runs in any process."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kezuri.artifact.atomic import write_bytes
from kezuri.artifact.folder import RunFolder, StudyFolder
from kezuri.core.errors import Interrupted, InUse, KezuriError, ResourceError, UsageError
from kezuri.data import Data
from kezuri.recipe.build import plain
from kezuri.recipe.listener import Listener, SilentListener
from kezuri.recipe.mask_cell import study_data
from kezuri.recipe.prepare import prepare
from kezuri.recipe.recipe import recipe_from_json
from kezuri.recipe.run import run
from kezuri.recipe.study import Cell

IN_USE = "in use"
"""What becomes of a cell that another process is at: it is come back to."""


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Attributes:
        status: `not started`, `finished`, `refused`, `failed`, or `IN_USE`.
        run: its folder, seen from the study's.
        reason: why it was refused or failed.
    """

    status: str = "not started"
    run: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Work:
    """Does cells; what is finished already stays as it is.

    Attributes:
        folder: of the study.
        data: what is studied; None to load `name` in each process.
        name, root: of the data, and the folder data sets lie in.
        device: `auto`, `cpu`, `cuda`, …
        threads: for training.
        listener: hears of the trainings, where they run in this process.
    """

    folder: StudyFolder
    data: Data | None
    name: str
    root: Path | None
    device: str
    threads: int | None
    listener: Listener | None

    def __call__(self, cell: Cell) -> Outcome:
        """Runs a cell, or goes on with it.

        Raises:
            Interrupted, ResourceError: the study must stop.
        """
        if cell.refused is not None:
            return Outcome("refused", reason=cell.refused)
        home: RunFolder | None = None
        place: str | None = None
        try:
            prepared = prepare(
                recipe_from_json(dict(cell.recipe), f"study, {cell.name}"),
                data=self.data if self.data is not None else study_data(self.name, self.root),
                data_root=self.root,
                device=self.device,
                near=self.folder.path,
            )
            home = RunFolder(self.folder.runs / prepared.run_name)
            place = str(home.path.relative_to(self.folder.path))
            run(
                prepared,
                runs=self.folder.runs,
                listener=None if self.listener is None else _Trainings(self.listener),
                as_written=yaml.safe_dump(plain(cell.recipe), sort_keys=False),
                threads=self.threads,
            )
        except (Interrupted, ResourceError):
            raise
        except InUse:
            return Outcome(IN_USE, place)
        except KezuriError as error:
            begun = home is not None and home.stages.exists()
            refused = isinstance(error, UsageError) and not begun
            return Outcome("refused" if refused else "failed", place, str(error))
        if cell.weights is not None:
            weights = home.model("final") / "model.safetensors"
            write_bytes(self.folder.path / cell.weights, weights.read_bytes())
        return Outcome("finished", place)


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


def to_json(cell: Cell, outcome: Outcome) -> dict[str, Any]:
    """A cell and what became of it, as the study's file has it."""
    kept = {name: getattr(cell, name) for name in ("name", "method", "seed", "epochs")}
    return {**kept, "status": outcome.status, "run": outcome.run, "reason": outcome.reason}
