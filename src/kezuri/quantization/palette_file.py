"""Files of palettes, `.kzp`: Huffman-coded, checked by a hash, no pickle; see docs/palette-file.md.

A format to store and send: no runtime executes it, and a model read from it is as large in memory as before.
"""

import hashlib
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kezuri.artifact.atomic import write_bytes
from kezuri.core.errors import CorruptArtifact, DataError, UsageError
from kezuri.quantization.huffman import Lengths, Symbols, code_lengths, decode, encode
from kezuri.quantization.palette import ZERO, Palette, Palettes
from kezuri.quantization.palette_table import (
    DTYPES,
    Coded,
    Entry,
    PaletteEntry,
    PlainEntry,
    SameEntry,
    Table,
    read_table,
)

MAGIC = b"\x89KZP\r\n\x1a\n"
VERSION = 1
HEADER = struct.Struct("<8sIIIQ")  # magic, version, table's bytes packed and unpacked, tensors' bytes
HASH = 32
RUN = 255  # zeros that a run's symbol of this value stands for, without an end
LARGEST = 1 << 30


@dataclass(frozen=True)
class PaletteSize:
    """Bytes of one tensor with a palette.

    Attributes:
        name: of the tensor.
        values, zeros: numbers in it, and how many of them are 0.
        colours: in its palette.
        size: bytes of all: palette, codes, and runs of zeros.
    """

    name: str
    values: int
    zeros: int
    colours: int
    size: int

    @property
    def bits(self) -> float:
        """A value, on average."""
        return 8 * self.size / self.values


@dataclass(frozen=True)
class PaletteFile:
    """What was written.

    Attributes:
        path: the file.
        size: its bytes.
        layers: those of each tensor with a palette.
        plain: bytes of all other tensors.
        table: bytes of names, shapes, and header.
    """

    path: Path
    size: int
    layers: tuple[PaletteSize, ...]
    plain: int
    table: int


def write_palettes(path: Path | str, palettes: Palettes) -> PaletteFile:
    """Writes a state dict of palettes as one small file, whole or absent.

    Raises:
        UsageError: a tensor is of a kind that the format does not have.
        ResourceError: the file cannot be written.
    """
    path = Path(path)
    entries: list[Entry] = []
    parts: list[bytes] = []
    layers = []
    for name, palette in palettes.palettes.items():
        entry, content = _packed(name, palette)
        entries.append(entry)
        parts.append(content)
        zeros = int((palette.codes == ZERO).sum())
        layers.append(PaletteSize(name, palette.codes.numel(), zeros, entry.colours, len(content)))
    for name, tensor in palettes.plain.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise UsageError(f"{name} holds {dtype}; a palette file has {', '.join(DTYPES)}")
        entries.append(PlainEntry.model_validate({**_named("plain", name, tensor), "dtype": dtype}))
        parts.append(_bytes_of(tensor))
    entries += [SameEntry(kind="same", name=name, of=first) for name, first in palettes.same.items()]
    table, unpacked = Table(tensors=entries).packed()
    body = b"".join(parts)
    header = HEADER.pack(MAGIC, VERSION, len(table), unpacked, len(body))
    content = header + hashlib.sha256(header + table + body).digest() + table + body
    write_bytes(path, content)
    plain = len(body) - sum(layer.size for layer in layers)
    return PaletteFile(path, len(content), tuple(layers), plain, len(content) - len(body))


def read_palettes(path: Path | str, *, largest: int = LARGEST) -> Palettes:
    """What `write_palettes` was given, bit for bit.

    Nothing in the file is executed, and memory is taken in proportion to its bytes: the hash, then the sizes
    that it states, are checked before.

    Args:
        largest: numbers that all tensors together may have.

    Raises:
        DataError: there is no such file.
        CorruptArtifact: it is no such file, is damaged, of a newer version, or larger than allowed.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"no file {path}") from error
    except OSError as error:
        raise CorruptArtifact(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        return _unpacked(content, largest)
    except CorruptArtifact as error:
        raise CorruptArtifact(f"{path} cannot be read: {error}") from error


def _unpacked(content: bytes, largest: int) -> Palettes:
    body, table = _checked(content)
    if table.size != len(body):
        raise CorruptArtifact(f"the tensors need {table.size:,} bytes, there are {len(body):,}")
    # of an empty tensor the other sizes count, which may not be beyond all bounds either
    total = sum(math.prod(max(1, size) for size in entry.shape) for entry in table.tensors)
    if total > largest:
        raise CorruptArtifact(f"it holds {total:,} numbers; at most {largest:,} are read")
    palettes: dict[str, Palette] = {}
    plain: dict[str, Tensor] = {}
    same: dict[str, str] = {}
    start = 0
    for entry in table.tensors:
        part = body[start : start + entry.size]
        start += entry.size
        try:
            if isinstance(entry, PaletteEntry):
                palettes[entry.name] = _palette(entry, part)
            elif isinstance(entry, PlainEntry):
                plain[entry.name] = _tensor(entry, part)
            else:
                same[entry.name] = entry.of
        except CorruptArtifact as error:
            raise CorruptArtifact(f"{entry.name}: {error}") from error
    return Palettes(palettes, plain, same)


def _checked(content: bytes) -> tuple[bytes, Table]:
    """The tensors' bytes and the table, of a file that is whole."""
    begin = HEADER.size + HASH
    if content[: len(MAGIC)] != MAGIC:
        raise CorruptArtifact("it is no palette file")
    if len(content) < begin:
        raise CorruptArtifact("it is cut short")
    _, version, packed, unpacked, size = HEADER.unpack_from(content)
    if version != VERSION:
        raise CorruptArtifact(f"it has version {version}, this Kezuri reads version {VERSION}")
    if len(content) != begin + packed + size:
        raise CorruptArtifact(f"it has {len(content):,} bytes, {begin + packed + size:,} were written")
    found = hashlib.sha256(content[: HEADER.size] + content[begin:]).digest()
    if found != content[HEADER.size : begin]:
        raise CorruptArtifact("it is damaged: its SHA-256 is not the one it was written with")
    return content[begin + packed :], read_table(content[begin : begin + packed], unpacked)


def _packed(name: str, palette: Palette) -> tuple[PaletteEntry, bytes]:
    """A palette's entry and bytes, with zeros in the way that takes fewer of them."""
    codes = palette.codes.reshape(-1).numpy()
    kept = codes != ZERO
    ways: dict[str, list[tuple[Coded, bytes]]] = {}
    if kept.all():
        ways["none"] = [_coded(codes.astype(np.uint16))]
    else:
        ways["symbol"] = [_coded((codes + 1).astype(np.uint16))]
        ways["runs"] = [_coded(codes[kept].astype(np.uint16)), _coded(_runs(kept))]
    zeros, streams = min(ways.items(), key=lambda way: sum(len(part) for _, part in way[1]))
    entry = PaletteEntry.model_validate(
        {
            **_named("palette", name, palette.codes),
            "colours": len(palette.centroids),
            "zeros": zeros,
            "codes": streams[0][0],
            "runs": streams[1][0] if len(streams) > 1 else None,
        }
    )
    centroids = palette.centroids.numpy().astype("<f4").tobytes()
    return entry, centroids + b"".join(part for _, part in streams)


def _palette(entry: PaletteEntry, part: bytes) -> Palette:
    """The inverse of `_packed`."""
    if (entry.zeros == "runs") != (entry.runs is not None):
        raise CorruptArtifact("it has runs of zeros where it says it has none, or none where it has")
    offset = 4 * entry.colours
    centroids = np.frombuffer(part, dtype="<f4", count=entry.colours).astype(np.float32)
    if not np.isfinite(centroids).all():
        raise CorruptArtifact("its palette is not finite")
    if entry.codes.kinds > entry.colours + (entry.zeros == "symbol"):
        raise CorruptArtifact("it has codes for more colours than there are")
    expected = entry.codes.count if entry.runs is None else None
    if expected is not None and expected != entry.values:
        raise CorruptArtifact(f"it has {expected:,} codes for {entry.values:,} values")
    symbols = _decoded(entry.codes, part[offset : offset + entry.codes.size])
    if entry.runs is None:
        codes = symbols.astype(np.int16) - (entry.zeros == "symbol")
    else:
        runs = _decoded(entry.runs, part[offset + entry.codes.size :])
        codes = _spread(symbols, runs, entry.values)
    return Palette(torch.from_numpy(centroids), torch.from_numpy(codes).view(entry.shape))


def _runs(kept: NDArray[np.bool_]) -> Symbols:
    """How many zeros come before each kept weight, and after the last: 255s, then what is left of it."""
    places = np.concatenate([[-1], np.flatnonzero(kept), [len(kept)]])
    full, rest = np.divmod(np.diff(places) - 1, RUN)
    symbols = np.full(int((full + 1).sum()), RUN, dtype=np.uint16)
    symbols[np.cumsum(full + 1) - 1] = rest
    return symbols


def _spread(symbols: Symbols, runs: Symbols, values: int) -> NDArray[np.int16]:
    """The inverse: kept weights between their zeros."""
    ends = np.flatnonzero(runs < RUN)
    covered = int(runs.sum(dtype=np.int64)) + len(symbols)
    if len(ends) != len(symbols) + 1 or ends[-1] != len(runs) - 1 or covered != values:
        raise CorruptArtifact(f"its runs of zeros and {len(symbols):,} codes do not make {values:,} values")
    zeros = np.cumsum(runs, dtype=np.int64)[ends[:-1]]
    codes = np.full(values, ZERO, dtype=np.int16)
    codes[zeros + np.arange(len(symbols))] = symbols
    return codes


def _coded(symbols: Symbols) -> tuple[Coded, bytes]:
    lengths = code_lengths(np.bincount(symbols))
    content = encode(symbols, lengths)
    halves = np.pad(lengths, (0, len(lengths) % 2))
    packed = (halves[0::2] | (halves[1::2] << 4)).tobytes()
    return Coded(count=len(symbols), kinds=len(lengths), bytes=len(content)), packed + content


def _decoded(coded: Coded, part: bytes) -> Symbols:
    halves = np.frombuffer(part, dtype=np.uint8, count=-(-coded.kinds // 2))
    lengths: Lengths = np.stack([halves & 15, halves >> 4], axis=1).reshape(-1)[: coded.kinds]
    return decode(part[len(halves) :], coded.count, lengths)


def _named(kind: str, name: str, tensor: Tensor) -> dict[str, object]:
    return {"kind": kind, "name": name, "shape": list(tensor.shape)}


def _bytes_of(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _tensor(entry: PlainEntry, part: bytes) -> Tensor:
    if entry.dtype == "bool" and part.translate(None, b"\0\1"):
        raise CorruptArtifact("it has truth values that are neither 0 nor 1")
    if not part:
        return torch.zeros(entry.shape, dtype=getattr(torch, entry.dtype))
    return torch.frombuffer(bytearray(part), dtype=getattr(torch, entry.dtype)).view(entry.shape)
