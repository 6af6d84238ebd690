"""`kezuri new`: a recipe to begin with."""

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer


def new(
    file: Annotated[Path, typer.Argument(help="The file to write.", show_default=False)],
    *,
    template: Annotated[str, typer.Option(help="pcas (a trained model) or train-pcas.")] = "train-pcas",
    model: Annotated[str | None, typer.Option(help="The model.")] = None,
    data: Annotated[str | None, typer.Option(help="The data: a known name or a folder of images.")] = None,
) -> None:
    """Writes a recipe with comments, ready to change."""
    from kezuri.artifact.atomic import write_bytes
    from kezuri.core.errors import UsageError
    from kezuri.recipe.templates import template as text_of

    if file.exists():
        raise UsageError(f"{file} is there already; it is not overwritten")
    given = {key: value for key, value in {"model": model, "data": data}.items() if value is not None}
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip("-._")[:80] or "recipe"
    quoted = shlex.quote(str(file))
    write_bytes(file, text_of(template, file=quoted, name=name, **given).encode())
    print(f"{file} written; next: kezuri check {quoted}")
