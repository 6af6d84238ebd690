"""What a palette file says of its tensors: the table before the bytes, and which tables are allowed."""

import json
import math
import zlib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kezuri.core.errors import CorruptArtifact
from kezuri.quantization.palette import LARGEST_PALETTE

DTYPES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
LARGEST_TABLE = 8 << 20  # some fifty thousand tensors

Name = Annotated[str, Field(max_length=1000)]
Size = Annotated[int, Field(ge=0, le=1 << 40)]
Shape = Annotated[list[Size], Field(max_length=16)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Coded(_Strict):
    """Symbols in Huffman codes: how many, of how many kinds, in how many bytes."""

    count: Size
    kinds: Annotated[int, Field(ge=0, le=LARGEST_PALETTE + 1)]
    bytes: Size

    @property
    def size(self) -> int:
        """Bytes in the file: the lengths of the codes, two a byte, and the coded symbols."""
        return -(-self.kinds // 2) + self.bytes


class PaletteEntry(_Strict):
    """A tensor with a palette."""

    kind: Literal["palette"]
    name: Name
    shape: Shape
    colours: Annotated[int, Field(ge=0, le=LARGEST_PALETTE)]
    zeros: Literal["none", "symbol", "runs"]
    codes: Coded
    runs: Coded | None = None

    @property
    def values(self) -> int:
        """Numbers in the tensor."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return 4 * self.colours + self.codes.size + (self.runs.size if self.runs else 0)


class PlainEntry(_Strict):
    """A tensor as it is."""

    kind: Literal["plain"]
    name: Name
    shape: Shape
    dtype: Literal[
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"
    ]

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * DTYPES[self.dtype]


class SameEntry(_Strict):
    """Another name of a tensor before it."""

    kind: Literal["same"]
    name: Name
    of: Name

    @property
    def shape(self) -> list[int]:
        """None of its own."""
        return []

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return 0


Entry = Annotated[PaletteEntry | PlainEntry | SameEntry, Field(discriminator="kind")]


class Table(_Strict):
    """All tensors of a file, in the order of their bytes."""

    tensors: list[Entry]

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.size for entry in self.tensors)

    def packed(self) -> tuple[bytes, int]:
        """As JSON, compressed; and the bytes it has uncompressed."""
        content = json.dumps(
            {"tensors": [entry.model_dump(exclude_defaults=True) for entry in self.tensors]},
            ensure_ascii=False,
            separators=(",", ":"),
        ).encode()
        return zlib.compress(content, 9), len(content)


def read_table(packed: bytes, size: int) -> Table:
    """The inverse of `Table.packed`.

    Raises:
        CorruptArtifact: it does not follow the schema, or is larger than it says.
    """
    if size > LARGEST_TABLE:
        raise CorruptArtifact(f"the table would have {size:,} bytes; at most {LARGEST_TABLE:,} are read")
    try:
        inflate = zlib.decompressobj()
        content = inflate.decompress(packed, size + 1)
        if len(content) != size or not inflate.eof or inflate.unused_data:
            raise CorruptArtifact("the table is not as long as it is said to be")
        table = Table.model_validate_json(content)
    except (zlib.error, ValidationError) as error:
        raise CorruptArtifact(f"the table does not follow the format: {_first_line(error)}") from error
    named: set[str] = set()
    originals: set[str] = set()
    for entry in table.tensors:
        if entry.name in named:
            raise CorruptArtifact(f"there are two tensors {entry.name!r}")
        named.add(entry.name)
        if not isinstance(entry, SameEntry):
            originals.add(entry.name)
        elif entry.of not in originals:
            raise CorruptArtifact(
                f"{entry.name!r} is the same as {entry.of!r}, which does not come before it"
            )
    return table


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        problem = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
    return str(error)
