"""Reads recipe files: YAML 1.2 scalars, duplicate keys refused, and every value knows its line."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kezuri.core.errors import DataError, RecipeError

Path_ = tuple[str | int, ...]

_NULL = re.compile(r"^(~|null|Null|NULL|)$")
_BOOL = re.compile(r"^(true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^[-+]?[0-9]+$")
_FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
_NOT_A_NUMBER = re.compile(r"^([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$")
_MOST_NODES = 20_000  # aliases can make a small file expand without end


@dataclass(frozen=True)
class Document:
    """A parsed file: plain data, and the line each value stands on.

    Attributes:
        value: dicts, lists, strings, numbers, booleans and None.
        source: the file's name, for messages.
        lines: the 1-based line of each value, by its path of keys and indices.
        changed: the override that set a value, by the value's path.
    """

    value: Any
    source: str
    lines: Mapping[Path_, int]
    changed: Mapping[Path_, str] = field(default_factory=dict)

    def where(self, path: Path_) -> str:
        """`recipe.yaml:14: steps[1].rate`, or as much of it as is known."""
        known = path
        while known and known not in self.lines and known not in self.changed:
            known = known[:-1]
        if known in self.changed:
            place = f"override {self.changed[known]!r}"
        else:
            place = f"{self.source}:{self.lines[known]}" if known in self.lines else self.source
        spelled = spell(path)
        return f"{place}: {spelled}" if spelled else place


def spell(path: Path_) -> str:
    """`steps[1].rate` from `("steps", 1, "rate")`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def read_document(path: Path) -> Document:
    """The document in a file.

    Raises:
        DataError: the file cannot be read.
        RecipeError: it is not a valid document; the message has file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(f"no recipe file {path}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a recipe: it is not text in UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    return parse(text, str(path))


def parse(text: str, source: str = "<recipe>") -> Document:
    """The document in `text`; raises RecipeError with source and line."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError(f"{source}{line}: not valid YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f"{source}: not valid YAML: {error}") from error
    reader = _Reader(source)
    try:
        value = None if node is None else reader.convert(node, ())
    except RecursionError as error:
        raise RecipeError(f"{source}: nested too deeply") from error
    return Document(value, source, reader.lines)


class _Reader:
    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: dict[Path_, int] = {}

    def convert(self, node: yaml.Node, path: Path_) -> Any:
        line = node.start_mark.line + 1
        self.lines[path] = line
        if len(self.lines) > _MOST_NODES:
            raise RecipeError(
                f"{self.source}:{line}: more than {_MOST_NODES} values; is an alias repeated without end?"
            )
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, line)
        if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
            raise RecipeError(f"{self.source}:{line}: the tag {node.tag} is not allowed")
        if isinstance(node, yaml.SequenceNode):
            return [self.convert(item, (*path, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, yaml.MappingNode)
        return self._mapping(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
        result: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise RecipeError(f"{self.source}:{line}: a key must be a word")
            key = key_node.value
            if key in first:
                raise RecipeError(
                    f"{self.source}:{line}: {spell((*path, key))} is given twice "
                    f"(first in line {first[key]}); keep one"
                )
            first[key] = line
            result[key] = self.convert(value_node, (*path, key))
            self.lines[(*path, key)] = line
        return result

    def _scalar(self, node: yaml.ScalarNode, line: int) -> Any:
        text: str = node.value
        if node.tag.startswith("!") or "python" in node.tag:
            raise RecipeError(f"{self.source}:{line}: the tag {node.tag} is not allowed")
        if node.style is not None:  # quoted: a string, whatever it looks like
            return text
        return plain_scalar(text, f"{self.source}:{line}")


def plain_scalar(text: str, where: str) -> Any:
    """A plain (unquoted) scalar by the YAML 1.2 core schema: `1e-3` is a number, `no` is a word."""
    if _NULL.match(text):
        return None
    if _BOOL.match(text):
        return text.lower() == "true"
    if _INT.match(text):
        return int(text)
    if _FLOAT.match(text):
        value = float(text)
        if math.isinf(value):
            raise RecipeError(f"{where}: {text} is too large a number")
        return value
    if _NOT_A_NUMBER.match(text):
        raise RecipeError(f"{where}: {text} is not a usable number")
    return text
