"""Who hears what a run does: the command line prints it, a notebook may draw it, tests stay silent."""

from collections.abc import Mapping
from typing import Any, Protocol

from kezuri.core.measurement import Measurement
from kezuri.core.progress import NullProgress, Progress


class Listener(Progress, Protocol):
    """A progress display that also hears sentences and finished rounds."""

    def say(self, text: str) -> None:
        """One finished sentence for the reader."""
        ...

    def warn(self, text: str) -> None:
        """Something that is allowed but known to go wrong."""
        ...

    def round_done(self, measurements: list[Measurement], decision: Mapping[str, Any]) -> None:
        """What was measured of one attempt at a round, and what was decided: round, attempt, verdict, why."""
        ...

    def expect(self, seconds: float, rounds: int) -> None:
        """The `rounds` ahead will take about so long; said before the first and corrected after each."""
        ...


class SilentListener(NullProgress):
    """Hears and says nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""

    def round_done(self, measurements: list[Measurement], decision: Mapping[str, Any]) -> None:
        """Nothing."""

    def expect(self, seconds: float, rounds: int) -> None:
        """Nothing."""
