from collections.abc import Callable
from pathlib import Path

from kezuri.report.reading import Round, RunView
from kezuri.report.rounds import RoundsTable, rounds_table


def test_every_attempt_has_a_line_with_shares_of_the_dense_model(make_run: Callable[..., Path]) -> None:
    grid = rounds_table(RunView.read(make_run()))
    keys = [column.key for column in grid.columns]
    rows = [dict(zip(keys, (cell.text for cell in row), strict=True)) for row in grid.rows]
    assert [row["round"] for row in rows] == ["0", "1", "2", "3", "4", "4 (2)", "5"]
    assert rows[0]["params"] == "100.0"
    assert rows[0]["rate"] == "–"
    assert rows[1]["params"] == "70.0"
    assert rows[4]["verdict"] == "rolled back"
    assert rows[5]["rate"] == "15"
    assert rows[5]["validation"] == "92.80"


def test_lines_printed_one_by_one_stay_under_their_headers(make_run: Callable[..., Path]) -> None:
    run = RunView.read(make_run())
    table = RoundsTable(run.rounds[0])
    ends = {len(table.line(entry)) - len(entry.verdict) for entry in run.rounds}
    assert ends == {table.head().index("verdict")}


def test_a_round_without_measurements_is_dashes() -> None:
    line = RoundsTable(Round(0)).line(Round(1))
    assert line.split() == ["1"] + ["–"] * 9


def test_zeros_are_counted_where_the_first_round_counts_them() -> None:
    table = RoundsTable(Round(0, zeros=0.0))
    assert table.head().split("MACs %")[1].split()[:2] == ["zeros", "%"]
    assert table.line(Round(1, zeros=0.805)).split()[5] == "80.5"
    assert "zeros" not in RoundsTable(Round(0)).head()
