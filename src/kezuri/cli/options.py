"""Options that several commands share, and how they are read."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kezuri.recipe.model_choice import ModelChoice

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


def model_choice(option: str, text: str) -> "ModelChoice":
    """The model in `NAME,option=value,…`."""
    from kezuri.core.errors import UsageError
    from kezuri.recipe.document import plain_scalar
    from kezuri.recipe.model_choice import ModelChoice

    use, *settings = words(text) or [""]
    options = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"{option} is a model, or one with options as plain2,width=0.5; got {text!r}")
        options[key.strip()] = plain_scalar(value.strip(), option)
    return ModelChoice(use, options)


def words(text: str) -> list[str]:
    """The words in `a, b,…`."""
    return [word.strip() for word in text.split(",") if word.strip()]


def folder_name(text: str) -> str:
    """What a data set or a model is called, as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[-60:] or "data"
