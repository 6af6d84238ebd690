"""Finds settings of one kind anywhere inside a recipe."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import TypeVar

Kind = TypeVar("Kind")


def parts_in(whole: object, kind: type[Kind]) -> Iterator[Kind]:
    """Every part of this kind, in order, however deep inside; parts are not looked into."""
    if isinstance(whole, kind):
        yield whole
        return
    inside: list[object] = []
    if is_dataclass(whole):
        inside = [getattr(whole, item.name) for item in fields(whole)]
    elif isinstance(whole, list | tuple):
        inside = list(whole)
    elif isinstance(whole, Mapping):
        inside = list(whole.values())
    for one in inside:
        yield from parts_in(one, kind)
