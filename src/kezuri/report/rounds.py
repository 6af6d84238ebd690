"""The table of a run's rounds, whole or growing line by line."""

from collections.abc import Iterable
from dataclasses import dataclass

from kezuri.core.measurement import Measurement
from kezuri.report import numbers
from kezuri.report.grid import Cell, Column, Grid
from kezuri.report.numbers import DASH
from kezuri.report.reading import Round, RunView


@dataclass(frozen=True)
class RoundsTable:
    """The table of rounds, whole or one line at a time while a run goes on.

    Attributes:
        start: round 0, which shares and units refer to; where it counts zeros, all lines do.
    """

    start: Round

    def grid(self, rounds: Iterable[Round]) -> Grid:
        """The whole table; round 0 is part of `rounds`."""
        entries = tuple(rounds)
        again = any(entry.attempt for entry in entries)
        notes = ("(2): the second attempt at a round, after the first was rolled back",) if again else ()
        return Grid("", self._columns(), tuple(self._cells(entry) for entry in entries), notes)

    def head(self) -> str:
        """The line of headers, to print once."""
        return self.grid([]).head_line()

    def line(self, entry: Round) -> str:
        """The line of one round, aligned under `head`."""
        return self.grid([]).line(self._cells(entry)).rstrip()

    def _columns(self) -> tuple[Column, ...]:
        unit, _ = numbers.size_unit([self.start.size])
        return (
            Column("round", "round", least=5),
            Column("rate", "rate %", least=6, spare=2),
            Column("lr_ratio", "lr_ratio", least=8, spare=3),
            Column("params", "params %", least=8),
            Column("macs", "MACs %", least=6, spare=1),
            *([] if self.start.zeros is None else [Column("zeros", "zeros %", least=7)]),
            Column("size", f"size {unit}", least=7),
            Column("train", "train %", least=7, spare=4),
            Column("validation", "validation %", least=12),
            Column("seconds", "seconds", least=7, spare=5),
            Column("verdict", "verdict", align="left", least=11),
        )

    def _cells(self, entry: Round) -> tuple[Cell, ...]:
        start = self.start
        _, scale = numbers.size_unit([start.size])
        size = None if entry.size is None else entry.size / scale
        again = f" ({entry.attempt + 1})" if entry.attempt else ""
        return (
            Cell(f"{entry.round}{again}", entry.round),
            Cell(numbers.setting(entry.rate, scale=100), entry.rate),
            Cell(numbers.setting(entry.lr_ratio), entry.lr_ratio),
            Cell(_share(entry.params, start.params), entry.params),
            Cell(_share(entry.macs, start.macs), entry.macs),
            *([] if start.zeros is None else [Cell(_share(entry.zeros, 1.0), entry.zeros)]),
            Cell(numbers.fixed(size, 3 if (start.size or 0) / scale < 10 else 1), entry.size),
            _accuracy(entry.train),
            _accuracy(entry.validation),
            Cell(numbers.fixed(entry.seconds, 1), entry.seconds),
            Cell.word(entry.verdict),
        )


def rounds_table(run: RunView) -> Grid:
    """Every attempt of a run: rate, lr_ratio, what is left, accuracy and verdict."""
    rounds = run.rounds
    start = rounds[0] if rounds else Round(0)
    return RoundsTable(start).grid(rounds)


def _accuracy(found: Measurement | None) -> Cell:
    return Cell(
        numbers.fixed(None if found is None else found.value * 100, 2), None if found is None else found.value
    )


def _share(part: float | None, whole: float | None) -> str:
    return numbers.fixed(part / whole * 100, 1) if part is not None and whole else DASH
