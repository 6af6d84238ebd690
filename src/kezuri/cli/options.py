"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Runs = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs.", envvar="KEZURI_RUNS")]
DataRoot = Annotated[
    Path | None,
    typer.Option("--data", help="Folder the data sets lie in (or set KEZURI_DATA).", envvar="KEZURI_DATA"),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads for training (default: all cores).")
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Overrides the recipe's seed.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Changes to the recipe, such as seed=1 or steps.1.rate=0.2", show_default=False),
]
RecipeFile = Annotated[
    Path, typer.Argument(help="A recipe (YAML); `kezuri new` writes one.", show_default=False)
]
RunPath = Annotated[Path, typer.Argument(help="The folder of a run.", show_default=False)]
