"""Who is told how long work goes: the command line draws a bar, a program may do nothing."""

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """Receives the events of one training; called at every step, so it must be quick."""

    def start(self, task: str, *, total: int, done: int) -> None:
        """`total` steps in all, of which `done` were made before (more than 0 after a resume)."""

    def advance(self, steps: int, figures: Mapping[str, float]) -> None:
        """`steps` more were made.

        Args:
            steps: usually 1; 0 when only figures are new.
            figures: epoch, loss, accuracy, lr of the step; at the end of an epoch also validation_accuracy.
        """

    def done(self) -> None:
        """The last event, also after an error."""


class NullProgress:
    """Tells nobody."""

    def start(self, task: str, *, total: int, done: int) -> None:
        pass

    def advance(self, steps: int, figures: Mapping[str, float]) -> None:
        pass

    def done(self) -> None:
        pass
