"""Turns plain data into the objects it names, and objects back into plain data.

A role is chosen by `use`; the rest of its table are the fields of the dataclass registered under that name.
Fields are checked against their annotations, so a method's dataclass is its configuration.
"""

import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from kezuri.core.errors import RecipeError, UnknownName, UsageError
from kezuri.core.registry import Registry
from kezuri.recipe.document import Document, Path_
from kezuri.recipe.roles import role_of


def build(kind: Any, document: Document, path: Path_ = ()) -> Any:
    """An instance of `kind` (a role, a dataclass or a plain type) from the part of a document at `path`.

    Raises:
        RecipeError: unknown names and keys (with what is allowed and a guess), missing keys, wrong types
            and values; the message has file, line and the value got.
    """
    value = _at(document, path)
    return _build(kind, value, document, path)


def _at(document: Document, path: Path_) -> Any:
    value = document.value
    for part in path:
        value = value[part]
    return value


def _build(kind: Any, value: Any, document: Document, path: Path_) -> Any:
    registry = role_of(kind)
    if registry is not None:
        return _member(registry, value, document, path)
    if isinstance(kind, type) and is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise RecipeError(f"{document.where(path)}: expected settings (key: value), got {value!r}")
        return _dataclass(kind, dict(value), document, path)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _union(arguments, value, document, path)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis and isinstance(value, Sequence):
        if isinstance(value, str):
            raise RecipeError(f"{document.where(path)}: expected a list, got {value!r}")
        return tuple(_build(arguments[0], item, document, (*path, i)) for i, item in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise RecipeError(f"{document.where(path)}: expected settings (key: value), got {value!r}")
        return {str(k): _build(arguments[1], item, document, (*path, k)) for k, item in value.items()}
    return _leaf(kind, value, document, path)


def _member(registry: Registry[Any], value: Any, document: Document, path: Path_) -> Any:
    if isinstance(value, str):  # `criterion: l2` is short for `criterion: {use: l2}`
        value = {"use": value}
    if not isinstance(value, Mapping) or "use" not in value:
        raise RecipeError(
            f"{document.where(path)}: a {registry.kind} says which by `use` "
            f"(have: {', '.join(sorted(registry))}); got {value!r}"
        )
    try:
        member = registry[value["use"]]
    except UnknownName as error:
        raise UnknownName(f"{document.where((*path, 'use'))}: {error}") from error
    settings = {name: setting for name, setting in value.items() if name != "use"}
    return _dataclass(member, settings, document, path)


def _dataclass(kind: Any, table: dict[str, Any], document: Document, path: Path_) -> Any:
    settable = {field.name: field for field in fields(kind) if field.init}
    for key in table:
        if key not in settable:
            near = get_close_matches(key, settable, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise RecipeError(
                f"{document.where((*path, key))}: {_name(kind)} has no setting {key!r} "
                f"(has: {', '.join(sorted(settable)) or 'none'}){hint}"
            )
    for name, field in settable.items():
        if name not in table and field.default is MISSING and field.default_factory is MISSING:
            raise RecipeError(f"{document.where(path)}: {_name(kind)} needs {name!r}")
    hints = _hints(kind)
    values = {name: _build(hints[name], value, document, (*path, name)) for name, value in table.items()}
    try:
        return kind(**values)
    except UsageError as error:
        at_fault = next((word for word in re.findall(r"\w+", str(error)) if word in table), None)
        place = path if at_fault is None else (*path, at_fault)
        raise RecipeError(f"{document.where(place)}: {error}") from error


def _union(kinds: Sequence[Any], value: Any, document: Document, path: Path_) -> Any:
    if value is None and type(None) in kinds:
        return None
    kinds = sorted(
        (kind for kind in kinds if kind is not type(None)), key=lambda kind: kind is not type(value)
    )
    errors = []
    for kind in kinds:
        try:
            return _build(kind, value, document, path)
        except RecipeError as error:
            if get_origin(kind) is tuple and isinstance(value, list | tuple):
                raise  # says which item it is
            errors.append(error)
    if len(errors) == 1 or any(role_of(kind) or is_dataclass(kind) for kind in kinds):
        raise errors[0]
    raise RecipeError(f"{document.where(path)}: expected {_spell(kinds)}, got {value!r}")


def _leaf(kind: Any, value: Any, document: Document, path: Path_) -> Any:
    numeric = kind in (int, float)
    if numeric and isinstance(value, bool | str):
        raise RecipeError(f"{document.where(path)}: expected a number, got {value!r}")
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Input should be ")
        raise RecipeError(f"{document.where(path)}: expected {problem}, got {value!r}") from error


def plain(part: Any) -> Any:
    """The complete plain data of an object, defaults filled in: the inverse of `build`."""
    if is_dataclass(part) and not isinstance(part, type):
        table = {field.name: plain(getattr(part, field.name)) for field in fields(part) if field.init}
        registry = role_of(type(part))
        return {"use": registry.name_of(part), **table} if registry is not None else table
    if isinstance(part, Mapping):
        return {str(key): plain(value) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [plain(item) for item in part]
    return part


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _name(kind: Any) -> str:
    registry = role_of(kind)
    return f"{registry.kind} {registry.name_of(kind)!r}" if registry is not None else kind.__name__.lower()


def _spell(kinds: Sequence[Any]) -> str:
    words = {float: "a number", int: "a whole number", str: "a word", bool: "true or false"}
    said: list[str] = []
    for kind in kinds:
        if get_origin(kind) is Literal:
            said += map(repr, get_args(kind))
        else:
            said.append("a list" if get_origin(kind) is tuple else words.get(kind, str(kind)))
    return " or ".join(said)
