"""Every path of a run, in one place."""

from dataclasses import dataclass
from pathlib import Path

from kezuri.core.errors import DataError

RECIPE_JSON = "recipe.json"
STUDY_JSON = "study.json"
MASK_STUDY_JSON = "mask-study.json"


@dataclass(frozen=True)
class ReportFolder:
    """A folder with a report: the page, its plots and its tables."""

    path: Path

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def plots(self) -> Path:
        return self.path / "plots"

    def table(self, name: str, ending: str) -> Path:
        """A table as a file: `csv` or `json`."""
        return self.path / f"{name}.{ending}"


@dataclass(frozen=True)
class RunFolder(ReportFolder):
    """The folder of one run: `runs/<name>-<hash of the complete recipe>/`."""

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The run in an existing folder.

        Raises:
            DataError: the folder does not hold a run.
        """
        if not (path / RECIPE_JSON).is_file():
            if (path / STUDY_JSON).is_file():
                raise DataError(
                    f"{path} is a study, not a run: its runs lie in {path / 'runs'}; `kezuri report` takes "
                    f"the study, and `kezuri study` as it was called goes on with it"
                )
            if (path / MASK_STUDY_JSON).is_file():
                raise DataError(
                    f"{path} is a study of mask searches, not a run: `kezuri report` takes it, and "
                    f"`kezuri study-masks` as it was called goes on with it"
                )
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
class StudyFolder(ReportFolder):
    """The folder of a study: the runs of its cells and what they share."""

    @property
    def record(self) -> Path:
        """What is studied, and what became of each cell."""
        return self.path / STUDY_JSON

    @property
    def runs(self) -> Path:
        return self.path / "runs"


@dataclass(frozen=True)
class MaskStudyFolder(ReportFolder):
    """The folder of a study of mask searches; each of its cells writes into a folder of its own."""

    @property
    def record(self) -> Path:
        """What is studied, and where each cell's results lie."""
        return self.path / MASK_STUDY_JSON

    def cell(self, name: str) -> "CellFolder":
        return CellFolder(self.path / "cells" / name)

    def weights(self, digest: str) -> Path:
        """The dense model's, where the study trained it."""
        return self.path / f"dense-{digest}.safetensors"


@dataclass(frozen=True)
class CellFolder:
    """The folder of one search and what was retrained from its mask."""

    path: Path

    @property
    def search(self) -> Path:
        """What the search found, once it ended."""
        return self.path / "search.json"

    @property
    def masks(self) -> Path:
        """The masks it found, True = kept."""
        return self.path / "masks.safetensors"

    def retrained(self, name: str) -> Path:
        """What retraining made of the mask, once it ended."""
        return self.path / f"{name}.json"

    def progress(self, name: str) -> Path:
        """What an interrupted search or training goes on from; gone when it ended."""
        return self.path / f"{name}.part"
