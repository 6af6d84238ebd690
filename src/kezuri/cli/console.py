"""What the reader sees while a run goes on: bars on a terminal, plain lines anywhere else."""

import sys
from collections.abc import Mapping
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kezuri.core.measurement import Measurement
from kezuri.report.numbers import duration
from kezuri.report.reading import Round
from kezuri.report.rounds import RoundsTable

EVERY_SECONDS = 20.0  # between plain progress lines
LAYERS_NAMED = 8  # in the lines of rounds; the report has them all


class ConsoleListener:
    """Prints a run's sentences and its growing table of rounds, and draws bars when a terminal listens."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(soft_wrap=True, highlight=False)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._name, self._total, self._done, self._spoke = "", 0, 0, 0.0
        self._table: RoundsTable | None = None

    def say(self, text: str) -> None:
        """A sentence, on its own line, at once even in a pipe."""
        self.console.print(text, markup=False)
        sys.stdout.flush()

    def warn(self, text: str) -> None:
        """A warning, on standard error so that piped output stays clean."""
        errors = Console(stderr=True, soft_wrap=True, highlight=False)
        errors.print(f"warning: {text}", style="yellow", markup=False)

    def round_done(self, measurements: list[Measurement], decision: Mapping[str, Any]) -> None:
        """One more line of the table of rounds."""
        entry = Round.of(measurements, decision)
        if entry.round == 0 or self._table is None:
            self._table = RoundsTable(entry)
            self.say(self._table.head())
        self.say(self._table.line(entry))
        if removed := _channels(measurements):
            self.say(f"       {removed}")
        if decision["verdict"] == "rolled back":
            self.say(f"       {decision['why']}")

    def expect(self, seconds: float, rounds: int) -> None:
        """How long the rounds ahead will take."""
        ahead = "1 round" if rounds == 1 else f"{rounds} rounds"
        self.say(f"       about {duration(seconds)} for {ahead}")

    def start(self, task: str, *, total: int, done: int) -> None:
        """A training begins, or goes on after `done` steps."""
        self._name, self._total, self._done, self._spoke = task, total, done, monotonic()
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description:<8}"),
                BarColumn(bar_width=30),
                TextColumn("{task.percentage:>3.0f} %  {task.fields[figures]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task(task, total=total, completed=done, figures="")
            self._bar.start()

    def advance(self, steps: int, figures: Mapping[str, float]) -> None:
        """Some steps were made."""
        self._done += steps
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=steps, figures=_spell(figures))
        elif monotonic() - self._spoke > EVERY_SECONDS:
            self._spoke = monotonic()
            self.say(f"  {self._name} {self._done}/{self._total} steps  {_spell(figures)}")

    def done(self) -> None:
        """The training ended, well or not."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None


def _spell(figures: Mapping[str, float]) -> str:
    parts = []
    if "loss" in figures:
        parts.append(f"loss {figures['loss']:.3f}")
    if "accuracy" in figures:
        parts.append(f"accuracy {figures['accuracy']:.1%}")
    return "  ".join(parts)


def _channels(measurements: list[Measurement]) -> str:
    """What is left of the layers that lost channels: `conv1 5/16, …`, or their sum where they are many."""
    cut = [
        (str(m.conditions["layer"]), int(m.value), int(m.conditions["before"]))
        for m in measurements
        if m.metric == "channels" and m.value < m.conditions["before"]
    ]
    if len(cut) > LAYERS_NAMED:
        left, of = sum(after for _, after, _ in cut), sum(before for _, _, before in cut)
        return f"{len(cut)} layers cut, {left} of their {of} channels left"
    return ", ".join(f"{layer} {after}/{before}" for layer, after, before in cut)
