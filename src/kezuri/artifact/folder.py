"""Every path of a run, in one place."""

from dataclasses import dataclass
from pathlib import Path

from kezuri.core.errors import DataError

RECIPE_JSON = "recipe.json"
STUDY_JSON = "study.json"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run: `runs/<name>-<hash of the complete recipe>/`."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The run in an existing folder.

        Raises:
            DataError: the folder does not hold a run.
        """
        if not (path / RECIPE_JSON).is_file():
            raise DataError(f"{path} is not a run (it has no {RECIPE_JSON})")
        return cls(path)

    @property
    def recipe_as_written(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def recipe(self) -> Path:
        return self.path / RECIPE_JSON

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def measurements(self) -> Path:
        return self.path / "measurements.jsonl"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    @property
    def allocation(self) -> Path:
        """Which layer got how many bits, and the choices that no other beats."""
        return self.path / "allocation.json"

    @property
    def stages(self) -> Path:
        """What resuming needs; each finished stage has its folder."""
        return self.path / "stages"

    def stage(self, name: str) -> Path:
        return self.stages / name

    def model(self, name: str) -> Path:
        """The folder of a model: `dense`, `final`."""
        return self.path / "models" / name


@dataclass(frozen=True)
class StudyFolder:
    """The folder of a study: the runs of its cells and what they share."""

    path: Path

    @property
    def record(self) -> Path:
        """What is studied, and what became of each cell."""
        return self.path / STUDY_JSON

    @property
    def runs(self) -> Path:
        return self.path / "runs"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    def table(self, ending: str) -> Path:
        """The table as a file: `csv` or `json`."""
        return self.path / f"table.{ending}"
