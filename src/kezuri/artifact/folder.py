"""Every path of a run, in one place."""

from dataclasses import dataclass
from pathlib import Path

from kezuri.core.errors import DataError

RECIPE_JSON = "recipe.json"


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
    def stages(self) -> Path:
        """What resuming needs; each finished stage has its folder."""
        return self.path / "stages"

    def stage(self, name: str) -> Path:
        return self.stages / name

    def model(self, name: str) -> Path:
        """The folder of a model: `dense`, `final`."""
        return self.path / "models" / name
