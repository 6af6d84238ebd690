"""`kezuri list`: what a recipe can name."""

from typing import Annotated

import typer


def list_(
    role: Annotated[str | None, typer.Argument(help="Only this role, such as criterion or model.")] = None,
) -> None:
    """Lists what a recipe can use: steps, criteria, models, data sets and every other choice."""
    from dataclasses import MISSING, fields, is_dataclass

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from kezuri.core.registry import unknown
    from kezuri.data.datasets import data_names
    from kezuri.model.load import REFERENCES
    from kezuri.model.zoo import zoo
    from kezuri.recipe.roles import registries

    kinds: dict[str, object] = {"model": zoo, "data": data_names(), **registries()}
    if role is not None and role not in kinds:
        raise unknown("role", role, kinds)
    console = Console(soft_wrap=True)
    for kind, members in kinds.items():
        if role not in (None, kind):
            continue
        table = Table(
            title=kind, title_justify="left", title_style="bold", box=None, show_header=False, padding=(0, 2)
        )
        for name in sorted(members):  # type: ignore[call-overload]
            member = (
                members[name]
                if hasattr(members, "__getitem__") and not isinstance(members, list | tuple)
                else None
            )
            about = (
                (getattr(member, "__doc__", None) or "").strip().split("\n")[0]
                if callable(member)
                else str(member or "")
            )
            settings = ""
            if is_dataclass(member):
                settings = ", ".join(
                    f.name
                    if f.default is MISSING and f.default_factory is MISSING
                    else f"{f.name}={_default(f)}"
                    for f in fields(member)
                )
            table.add_row(escape(name), escape(about), f"[dim]{escape(settings)}[/dim]")
        console.print(table)
        if kind == "model":
            for form, meaning in REFERENCES.items():
                console.print(f"  {form:<24}{meaning}", markup=False, highlight=False)
        console.print()


def _default(field: object) -> str:
    from dataclasses import MISSING

    value = getattr(field, "default", MISSING)
    if value is MISSING:
        return "…"
    return (
        str(value)
        if isinstance(value, int | float | str | bool | type(None))
        else type(value).__name__.lower()
    )
