"""`structure.json` and the tensors beside it: what they may hold, and how they show they were not changed."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from kezuri.core.errors import CorruptArtifact, DataError
from kezuri.model.channels import Choices

STRUCTURE = "structure.json"
WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
FORMAT = 2
LARGEST = 64 << 20

Size = Annotated[int, Field(ge=0, le=1 << 40)]
Count = Annotated[int, Field(ge=1, le=1 << 20)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Use(_Strict):
    """A model of the zoo and its options."""

    use: str
    options: dict[str, Any]


class Input(_Strict):
    """An example of an input; what is no fraction is stored with the weights, as `input:<number>`."""

    shape: list[Size]
    dtype: str


class File(_Strict):
    """A file of tensors beside this one."""

    file: Literal["model.safetensors", "optimizer.safetensors"]
    sha256: str
    bytes: Size


class Group(_Strict):
    """Parameters that an optimizer treats alike, by name."""

    params: list[str]
    options: dict[str, Any]


class Optimizer(_Strict):
    """What an optimizer knows beside tensors: `numbers` by parameter."""

    use: str
    groups: list[Group]
    numbers: dict[str, dict[str, int | float | bool | None]]
    weights: File


class Quantization(_Strict):
    """How a cut model was quantized: by which part of Kezuri, and its settings."""

    use: str
    settings: dict[str, Any]


class Document(_Strict):
    """`structure.json`. `seal` is the SHA-256 of the rest as `_render` writes it.

    What has a default is new in format 2.
    """

    format: Literal[1, 2]
    model: Use | None
    classes: Count | None
    image_shape: tuple[Count, Count, Count] | None
    kept: dict[str, dict[str, list[Size]]]
    masks: list[str]
    weights: File
    shapes: dict[str, list[Size]]
    about: dict[str, Any]
    seal: str
    dropped: list[str] = []
    inputs: list[Input] | None = None
    program: Choices | None = None
    torch: str | None = None
    optimizer: Optimizer | None = None
    quantization: Quantization | None = None


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


def file_entry(name: str, content: bytes) -> dict[str, Any]:
    """How a structure names a file of tensors."""
    return {"file": name, "sha256": sha256_of(content), "bytes": len(content)}


def read_tensors(folder: Path, entry: File) -> dict[str, Tensor]:
    """All tensors of a file, after its size and hash were found right.

    Raises:
        CorruptArtifact: it is missing or damaged, or holds something else.
    """
    path = folder / entry.file
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            raise CorruptArtifact(f"{path} has {size:,} bytes; {entry.bytes:,} were written")
        raw = path.read_bytes()
    except OSError as error:
        raise CorruptArtifact(f"{path} cannot be read: {error.strerror or error}") from error
    if sha256_of(raw) != entry.sha256:
        raise CorruptArtifact(f"{path} is damaged: its SHA-256 is not the one it was written with")
    try:
        return load(raw)
    except SafetensorError as error:
        raise CorruptArtifact(f"{path} does not hold tensors: {error}") from error


def sha256_of(content: bytes) -> str:
    """As hex digits."""
    return hashlib.sha256(content).hexdigest()


def _first_problem(error: Exception) -> str:
    if isinstance(error, ValidationError):
        problem = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    return str(error)
