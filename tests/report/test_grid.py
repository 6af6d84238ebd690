import csv
import io
import json

from rich.console import Console

from kezuri.report.grid import Cell, Column, Grid, columns, show

GRID = Grid(
    "Title",
    (
        Column("name", "name", align="left"),
        Column("size", "size MB", spare=1),
        Column("accuracy", "accuracy %", spare=0),
    ),
    (
        (Cell.word("small [bold]x[/bold]"), Cell("1.20", 1.2e6), Cell("93.58", 0.9358)),
        (Cell.word("日本"), Cell("–", None), Cell("9.10", 0.091)),
    ),
    ("a note",),
)


def test_text_aligns_numbers_right_and_words_left() -> None:
    title, head, first, second, note = GRID.text().splitlines()
    assert (title, note) == ("Title", "a note")
    assert head.endswith("accuracy %")
    assert first.endswith("     93.58")
    assert second.startswith("日本")
    assert {columns(line) for line in (head, first, second)} == {columns(head)}


def test_spare_columns_go_first_where_the_width_is_short() -> None:
    narrow = GRID.text(width=35)
    assert "size MB" not in narrow
    assert "accuracy %" in narrow
    assert "accuracy %" in GRID.text(width=5)


def test_csv_and_json_hold_raw_values_and_no_formatting() -> None:
    rows = list(csv.DictReader(io.StringIO(GRID.csv())))
    assert rows[0] == {"name": "small [bold]x[/bold]", "size": "1200000.0", "accuracy": "0.9358"}
    assert rows[1]["size"] == ""
    assert json.loads(GRID.json())[1] == {"name": "日本", "size": None, "accuracy": 0.091}


def test_json_never_holds_nan() -> None:
    grid = Grid("", (Column("a", "a"),), ((Cell("–", float("nan")),), (Cell("–", float("inf")),)))
    assert json.loads(grid.json()) == [{"a": None}, {"a": None}]


def test_markdown_escapes_what_would_break_the_table() -> None:
    grid = Grid("", (Column("a", "a", align="left"),), ((Cell.word("x|y<b>"),),))
    assert grid.markdown().splitlines()[-1] == "| x\\|y&lt;b> |"


def test_words_cannot_steer_the_terminal() -> None:
    assert Cell.word("a\x1b[31mb\nc\u202e").text == "a�[31mb�c�"


def test_a_pipe_gets_plain_lines_and_a_terminal_a_table_that_fits() -> None:
    pipe = io.StringIO()
    show(GRID, Console(file=pipe, width=20))
    assert pipe.getvalue() == GRID.text()
    terminal = io.StringIO()
    show(GRID, Console(file=terminal, force_terminal=True, width=46))
    assert "[bold]x[/bold]" in terminal.getvalue()
    assert "size MB" not in terminal.getvalue()


def test_columns_that_say_nothing_are_left_out_where_they_can_be_spared() -> None:
    empty = Column("zeros", "zeros %", spare=2)
    bare = Grid("", (*GRID.columns, empty), tuple((*row, Cell("–")) for row in GRID.rows))
    assert bare.filled().columns == GRID.columns
    assert Grid("", (Column("all", "all"),), ((Cell("–"),),)).filled().columns
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    show(bare, console)
    assert "zeros %" not in console.file.getvalue() and "zeros" in bare.csv()  # type: ignore[attr-defined]
