"""`kezuri list`: what a recipe can name."""

from typing import Annotated, Any

import typer


def list_(
    role: Annotated[str | None, typer.Argument(help="Only this role, such as criterion or model.")] = None,
) -> None:
    """Lists what a recipe can use: steps, criteria, models, data sets and every other choice."""
    from collections.abc import Mapping

    from kezuri.core.registry import unknown
    from kezuri.data import data_names
    from kezuri.model.load import REFERENCES
    from kezuri.model.zoo import zoo
    from kezuri.recipe.roles import registries

    data: dict[str, Any] = dict.fromkeys(data_names())
    kinds: dict[str, Mapping[str, Any]] = {"model": zoo, "data": data, **registries()}
    if role is not None and role not in kinds:
        raise unknown("role", role, kinds)
    folders = {"FOLDER": "of images: train/<class>/*.png (and val/, test/), or <class>/*.png alone"}
    forms: dict[str, Mapping[str, str]] = {"model": REFERENCES, "data": folders}
    for kind, members in kinds.items():
        if role not in (None, kind):
            continue
        print(kind)
        for name in sorted(members):
            about = (getattr(members[name], "__doc__", None) or "").strip().split("\n")[0]
            print(f"  {name:<16}{about if members[name] is not None else ''}".rstrip())
            if settings := _settings(members[name]):
                print(f"  {'':<16}{settings}")
        for form, meaning in forms.get(kind, {}).items():
            print(f"  {form:<24}  {meaning}")
        print()


def _settings(member: Any) -> str:
    """`rate=0.3, rounds=5, …` of a method's dataclass; a setting without a default stands alone."""
    from dataclasses import MISSING, fields, is_dataclass

    if not is_dataclass(member):
        return ""
    said = []
    for field in fields(member):
        if field.default is not MISSING:
            said.append(f"{field.name}={_spell(field.default)}")
        elif field.default_factory is not MISSING:
            said.append(f"{field.name}={_spell(field.default_factory())}")
        else:
            said.append(field.name)
    return ", ".join(said)


def _spell(value: Any) -> str:
    """A default as a recipe would write it."""
    from kezuri.recipe.build import plain

    written = plain(value)
    if isinstance(written, dict):
        return str(written.get("use", "{…}"))
    return "null" if written is None else str(written).replace("'", "")
