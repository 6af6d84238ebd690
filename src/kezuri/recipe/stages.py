"""Finished work of a run: each stage leaves a record, and the model where a later stage needs it.

Every stage is a function of the recipe, the seed and the model before it, so a resumed run asks each stage
"are you there?" and repeats only the one the kill fell into.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kezuri.artifact.atomic import read_json, write_json
from kezuri.artifact.folder import RunFolder
from kezuri.artifact.journal import Journal
from kezuri.artifact.manifest import Manifest
from kezuri.core.errors import CorruptArtifact
from kezuri.core.measurement import Measurement

if TYPE_CHECKING:
    from kezuri.recipe.step import ModelState

RECORD = "record.json"


class Stages:
    """The stages of the run in `folder`.

    Args:
        folder: the run's folder.
        save: writes a model state into a folder.
        load: reads it back.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        save: Callable[[Path, "ModelState"], None],
        load: Callable[[Path], "ModelState"],
    ) -> None:
        self.folder = folder
        self.journal = Journal(folder.measurements)
        self.manifest = Manifest(folder)
        self._save = save
        self._load = load

    def record(self, name: str) -> Mapping[str, Any] | None:
        """What the stage left, or None while it is unfinished."""
        path = self.folder.stage(name) / RECORD
        if not path.exists():
            return None
        with self._way_out(name):
            record = read_json(path)
            if not isinstance(record, dict):
                raise CorruptArtifact(f"{path} does not hold a JSON object")
        return record

    def finish(
        self,
        name: str,
        *,
        record: Mapping[str, Any],
        measurements: Iterable[Measurement] = (),
        state: "ModelState | None" = None,
    ) -> None:
        """Marks a stage as finished; its record is written last, so it is there only when all of it is."""
        folder = self.folder.stage(name)
        if state is not None:
            self._save(folder / "model", state)
        self.journal.record(name, measurements)
        write_json(folder / RECORD, dict(record))
        shutil.rmtree(self.checkpoint(name), ignore_errors=True)

    def state(self, name: str) -> "ModelState":
        """The model a finished stage left."""
        with self._way_out(name):
            return self.state_in(self.folder.stage(name) / "model")

    @contextmanager
    def _way_out(self, name: str) -> Iterator[None]:
        """Says what to do about a damaged stage."""
        try:
            yield
        except CorruptArtifact as error:
            step = self.folder.stage(name.partition(".")[0])
            raise CorruptArtifact(
                f"{error}; remove the folders {step}* and resume: that step is then made again"
            ) from error

    def forget(self, name: str) -> None:
        """Makes a stage unfinished, so that it is done again."""
        shutil.rmtree(self.folder.stage(name), ignore_errors=True)

    def state_in(self, folder: Path) -> "ModelState":
        """The model in any folder of the run."""
        return self._load(folder)

    def save_in(self, folder: Path, state: "ModelState") -> None:
        """Writes a model into any folder of the run."""
        self._save(folder, state)

    def forget_model(self, name: str) -> None:
        """Frees the disk of a model no later stage begins from; the record stays."""
        shutil.rmtree(self.folder.stage(name) / "model", ignore_errors=True)

    def checkpoint(self, name: str) -> Path:
        """Where training inside a stage keeps its checkpoints until the stage is finished."""
        return self.folder.stage(name) / "training"
