"""`kezuri compare`: runs side by side."""

from pathlib import Path
from typing import Annotated

import typer


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.", show_default=False)],
    *,
    keep: Annotated[float | None, typer.Option(help="Accuracy a run must reach to qualify (0.9).")] = None,
    sort: Annotated[str, typer.Option(help="size, accuracy, hours, latency or params.")] = "size",
    out: Annotated[Path | None, typer.Option(help="Also write an HTML page and a picture here.")] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compares runs: settings, hours, accuracy, size, and which nothing else beats (the Pareto front)."""
    from kezuri.report.compare import compare as compare_runs
    from kezuri.report.grid import show
    from kezuri.report.tables import comparison_table
    from kezuri.report.write import write_comparison

    folders = [path for path in runs if (path / "recipe.json").is_file()]
    comparison = compare_runs(folders or runs, keep=keep, sort=sort)
    table = comparison_table(comparison)
    if csv:
        print(table.csv(), end="")
    elif json:
        print(table.json())
    else:
        show(table)
    if out is not None:
        print(write_comparison(folders, out))
