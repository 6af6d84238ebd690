"""`kezuri compare`: runs side by side."""

import sys
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
    from kezuri.artifact.folder import RECIPE_JSON
    from kezuri.core.errors import UsageError
    from kezuri.report.compare import compare as compare_runs
    from kezuri.report.grid import show
    from kezuri.report.tables import comparison_table
    from kezuri.report.write import write_comparison

    if csv and json:
        raise UsageError("--csv and --json cannot both be printed; choose one")
    if out is not None and out.suffix not in (".html", ".htm"):
        raise UsageError(f"--out is an HTML file, such as comparison.html; got {out}")
    folders = [path for path in runs if (path / RECIPE_JSON).is_file() or not path.exists()]
    for path in runs:
        if folders and path not in folders:
            print(f"warning: {path} is not a run; left out", file=sys.stderr)
    comparison = compare_runs(folders or runs, keep=keep, sort=sort)
    table = comparison_table(comparison)
    if csv:
        print(table.csv(), end="")
    elif json:
        print(table.json())
    else:
        show(table)
    if out is not None:
        print(write_comparison(folders, out, keep=keep, sort=sort))
