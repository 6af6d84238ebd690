"""Every error a caller can catch. The command line ends with the error's `exit_code`.

KezuriError               1
├── UsageError            2  what the user asked for cannot be done as written
│   ├── RecipeError          a recipe, or a value in it
│   │   └── UnknownName      a name that no registry holds
│   ├── ModelError           a model cannot be built, or does not fit its data
│   ├── GoalUnreachable      no model can meet this goal
│   └── InUse                another process works in this folder
├── DataError             3  data is missing, corrupt, or not what it was said to be
│   └── CorruptArtifact      a file of a run is damaged or was tampered with
├── ResourceError         4  disk or memory ran out
├── Interrupted         130  the user stopped the run; it can be resumed
├── TrainingDiverged      1  a loss or a weight stopped being finite
├── ProofFailed           1  the cut model differs from the masked one
├── ParityFailed          1  the exported model differs from the PyTorch one
├── MissingEvidence       1  a criterion was given less calibration than it needs
└── ShapeError            1  a tensor does not fit the part it was given to
"""

import sysconfig
from pathlib import Path
from traceback import extract_tb
from typing import ClassVar


class KezuriError(Exception):
    """Base of all errors raised on purpose."""

    exit_code: ClassVar[int] = 1


class UsageError(KezuriError):
    """What the user asked for cannot be done as written."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe, or a value in it, cannot be run."""


class UnknownName(RecipeError):
    """A name that no registry holds."""


class ModelError(UsageError):
    """A model cannot be built, or does not fit its data."""


class NotFollowed(ModelError):
    """torch.export cannot follow a model that runs."""


class GoalUnreachable(UsageError):
    """No model can meet this goal."""


class InUse(UsageError):
    """Another process works in this folder."""


class DataError(KezuriError):
    """Data is missing, corrupt, or not what it was said to be."""

    exit_code = 3


class CorruptArtifact(DataError):
    """A file of a run is damaged or was tampered with."""


class ResourceError(KezuriError):
    """Disk or memory ran out."""

    exit_code = 4


class Interrupted(KezuriError):
    """The user stopped the run; it can be resumed."""

    exit_code = 130


class TrainingDiverged(KezuriError):
    """A loss or a weight stopped being finite."""


class ProofFailed(KezuriError):
    """The cut model differs from the masked one."""


class ParityFailed(KezuriError):
    """The exported model differs from the PyTorch one."""


class MissingEvidence(KezuriError):
    """A criterion was given less calibration than it needs."""


class ShapeError(KezuriError):
    """A tensor does not fit the part it was given to."""


class KezuriWarning(UserWarning):
    """Something is allowed but known to go wrong, or had no effect."""


def users_line(error: BaseException) -> str | None:
    """`file:line` of the deepest frame in the user's own code: not here, not in Python, nor in a package."""
    paths = sysconfig.get_paths()
    others = (
        str(Path(__file__).parents[1]),
        *(paths[name] for name in ("stdlib", "purelib", "platlib")),
        "<",
    )
    frames = [frame for frame in extract_tb(error.__traceback__) if not frame.filename.startswith(others)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None
