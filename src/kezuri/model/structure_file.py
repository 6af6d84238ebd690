"""`structure.json`: what it may hold, and how it shows that it was not changed."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kezuri.core.errors import CorruptArtifact, DataError

STRUCTURE = "structure.json"
WEIGHTS = "model.safetensors"
LARGEST = 64 << 20

Size = Annotated[int, Field(ge=0, le=1 << 40)]
Count = Annotated[int, Field(ge=1, le=1 << 20)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Use(_Strict):
    use: str
    options: dict[str, Any]


class _Weights(_Strict):
    file: Literal["model.safetensors"]
    sha256: str
    bytes: Size


class Document(_Strict):
    """`structure.json`. `seal` is the SHA-256 of the rest as `_render` writes it."""

    format: Literal[1, 2]
    model: _Use | None
    classes: Count
    image_shape: tuple[Count, Count, Count]
    kept: dict[str, dict[str, list[Size]]]
    dropped: list[str] = []
    masks: list[str]
    weights: _Weights
    shapes: dict[str, list[Size]]
    about: dict[str, Any]
    seal: str


def read_document(path: Path) -> Document:
    """The content of a structure file.

    Raises:
        DataError: there is none.
        CorruptArtifact: it is too large, does not follow the schema, or was changed.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise CorruptArtifact(f"{path} has {size:,} bytes; at most {LARGEST:,} are read")
        raw = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path.parent} holds no model (it has no {STRUCTURE})") from error
    except OSError as error:
        raise CorruptArtifact(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        content = json.loads(raw)
        document = Document.model_validate_json(raw)
        content.pop("seal")
        whole = sealed(content) == raw
    except (ValidationError, ValueError, RecursionError) as error:
        raise CorruptArtifact(f"{path} does not hold a model's structure: {_first_problem(error)}") from error
    if not whole:
        raise CorruptArtifact(f"{path} was changed after it was written: its seal does not fit")
    return document


def sealed(content: Mapping[str, Any]) -> bytes:
    """The bytes of a structure file, with the seal added."""
    return _render({**content, "seal": sha256_of(_render(content))})


def _render(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n").encode()


def sha256_of(content: bytes) -> str:
    """As hex digits."""
    return hashlib.sha256(content).hexdigest()


def _first_problem(error: Exception) -> str:
    if isinstance(error, ValidationError):
        problem = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    return str(error)
