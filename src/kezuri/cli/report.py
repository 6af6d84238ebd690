"""`kezuri report`: one self-contained page about a run or a study."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    folder: Annotated[Path, typer.Argument(help="Of a run, or of a study.", show_default=False)],
) -> None:
    """Writes report.html and the pictures of a run or a study, finished or not."""
    import sys

    from kezuri.artifact.folder import RunFolder
    from kezuri.artifact.manifest import Manifest
    from kezuri.report.write import write_report

    print(write_report(folder))
    run = RunFolder(folder)
    for name, what in Manifest(run).damaged().items() if run.recipe.is_file() else ():
        print(f"warning: {folder / name}: {what}; `kezuri resume` makes it again", file=sys.stderr)
