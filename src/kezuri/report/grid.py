"""A table as plain data, printable on a terminal, in a pipe, as CSV, JSON and Markdown."""

import csv
import io
import json
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from kezuri.report.numbers import DASH

GAP = "  "


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: its name in CSV and JSON, where values are raw: fractions, bytes, ms, seconds.
        header: its name for people, with the unit.
        align: numbers stand right, words left.
        spare: 0 is always shown; the higher, the earlier the column goes where the width is short.
        least: the least width, for tables that are printed while they grow.
    """

    key: str
    header: str
    align: Literal["left", "right"] = "right"
    spare: int = 0
    least: int = 0


@dataclass(frozen=True)
class Cell:
    """What people read and the raw value behind it."""

    text: str
    value: Any = None

    @classmethod
    def word(cls, value: object) -> "Cell":
        """A cell that holds words from a user; characters that steer a terminal are replaced."""
        return cls(printable(str(value)) if value not in (None, "") else DASH, value)


@dataclass(frozen=True)
class Grid:
    """A table: columns, rows of cells, and notes below it."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def filled(self) -> "Grid":
        """The same table without the columns that can be spared and say nothing in any row."""
        grid = self
        for index in reversed(range(len(self.columns))):
            says = any(row[index].text not in ("", DASH) for row in self.rows)
            grid = grid if says or not self.columns[index].spare else grid._without(index)
        return grid

    def fitting(self, width: int, *, gap: int = len(GAP)) -> "Grid":
        """The same table without the columns that can be spared, until it fits `width` characters."""
        grid = self
        while sum(grid.widths()) + gap * (len(grid.columns) - 1) > width:
            spare = max(column.spare for column in grid.columns)
            if spare == 0:
                break
            last = max(i for i, column in enumerate(grid.columns) if column.spare == spare)
            grid = grid._without(last)
        return grid

    def _without(self, index: int) -> "Grid":
        def rest(entries: Sequence[Any]) -> tuple[Any, ...]:
            return (*entries[:index], *entries[index + 1 :])

        return replace(self, columns=rest(self.columns), rows=tuple(rest(row) for row in self.rows))

    def widths(self) -> list[int]:
        """The characters each column takes."""
        cells = [[columns(row[i].text) for row in self.rows] for i in range(len(self.columns))]
        return [
            max(column.least, columns(column.header), *texts, 0)
            for column, texts in zip(self.columns, cells, strict=True)
        ]

    def text(self, width: int | None = None) -> str:
        """Plain lines with aligned columns; all columns where no width is given."""
        grid = self if width is None else self.fitting(width)
        lines = [grid.title] if grid.title else []
        lines += [grid.head_line(), *(grid.line(row) for row in grid.rows), *grid.notes]
        return "\n".join(lines) + "\n"

    def head_line(self) -> str:
        """The line of headers."""
        return self._join([column.header for column in self.columns])

    def line(self, row: Sequence[Cell]) -> str:
        """One row as a line, as wide as the columns of this table."""
        return self._join([cell.text for cell in row])

    def _join(self, texts: Sequence[str]) -> str:
        padded = []
        for text, column, width in zip(texts, self.columns, self.widths(), strict=True):
            room = " " * (width - columns(text))
            padded.append(room + text if column.align == "right" else text + room)
        return GAP.join(padded).rstrip()

    def csv(self) -> str:
        """Comma-separated raw values under the keys; what was not measured is empty."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([column.key for column in self.columns])
        writer.writerows([["" if v is None else v for v in self._values(row)] for row in self.rows])
        return out.getvalue()

    def json(self) -> str:
        """A JSON list with one object of raw values a row; what was not measured is null."""
        keys = [column.key for column in self.columns]
        rows = [dict(zip(keys, self._values(row), strict=True)) for row in self.rows]
        return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"

    def markdown(self) -> str:
        """A Markdown table, with the title above it and the notes below."""
        marks = ["---:" if column.align == "right" else "---" for column in self.columns]
        lines = [f"**{self.title}**", ""] if self.title else []
        lines += [_markdown_row([column.header for column in self.columns]), _markdown_row(marks, raw=True)]
        lines += [_markdown_row([cell.text for cell in row]) for row in self.rows]
        lines += ["", *self.notes] if self.notes else []
        return "\n".join(lines) + "\n"

    def rich(self) -> RichTable:
        """The table for a terminal; words of users are never read as markup."""
        title = Text(self.title) if self.title else None
        table = RichTable(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for column in self.columns:
            table.add_column(Text(column.header), justify=column.align, overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(cell.text) for cell in row))
        return table

    @staticmethod
    def _values(row: Sequence[Cell]) -> list[Any]:
        lost = (float("nan"), float("inf"), float("-inf"))
        return [
            None if isinstance(c.value, float) and (math.isnan(c.value) or c.value in lost) else c.value
            for c in row
        ]


def show(grid: Grid, console: Console | None = None) -> None:
    """Prints a table: with rules and as many columns as fit on a terminal, plain and whole in a pipe."""
    console, grid = console or Console(), grid.filled()
    if not console.is_terminal:
        console.file.write(grid.text())
        return
    # Rich pads every column by one on both sides, puts one between columns and one around the table.
    fitted = grid.fitting(console.width - 4, gap=3)
    console.print(fitted.rich())
    for note in fitted.notes:
        console.print(Text(note))


def columns(text: str) -> int:
    """The columns a text takes on a terminal: wide characters take two, combining marks none."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) != 0 for character in text)


def printable(text: str) -> str:
    """The text without the control characters that could steer a terminal or break a line."""
    return "".join(
        "�" if unicodedata.category(character) in ("Cc", "Cf") else character for character in text
    )


def _markdown_row(texts: Sequence[str], *, raw: bool = False) -> str:
    if not raw:
        texts = [text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;") for text in texts]
    return f"| {' | '.join(texts)} |"
