"""Writers of the original formats, so that readers are tested on files they did not make."""

import gzip
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest


def idx(array: np.ndarray) -> bytes:
    return (
        struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        + array.astype(np.uint8).tobytes()
    )


def write_idx(folder: Path, arrays: dict[str, np.ndarray], *, zipped: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        content = idx(array)
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(
            gzip.compress(content) if zipped else content
        )


def python2_pickle(entries: dict[str, Any]) -> bytes:
    """A dictionary of arrays, lists of small numbers and byte strings, as Python 2 wrote CIFAR."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<I", len(value)) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    def array(value: np.ndarray) -> bytes:
        dtype = b"cnumpy\ndtype\n(" + text(b"u1") + number(0) + number(1) + b"tR("
        dtype += number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
        shape = b"(" + b"".join(number(size) for size in value.shape) + b"t"
        made = (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n("
            + number(0)
            + b"t"
            + text(b"b")
            + b"tR"
        )
        return made + b"(" + number(1) + shape + dtype + b"\x89" + text(value.tobytes()) + b"tb"

    out = b"\x80\x02}("
    for name, value in entries.items():
        out += text(name.encode())
        if isinstance(value, np.ndarray):
            out += array(value)
        elif isinstance(value, bytes):
            out += text(value)
        else:
            out += b"](" + b"".join(number(int(item)) for item in value) + b"e"
    return out + b"u."


def tar_gz(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def records(images: np.ndarray, *labels: np.ndarray) -> bytes:
    """The binary version of CIFAR: label bytes, then the pixels."""
    columns = [label.astype(np.uint8)[:, None] for label in labels]
    return np.concatenate([*columns, images.reshape(len(images), -1)], axis=1).tobytes()


def plane_codes(images: np.ndarray) -> dict[str, np.ndarray]:
    """Residual codes of colour planes, one pixel after the other, written down from the definition."""

    def wrap(value: int) -> int:
        return (value + 128) % 256 - 128

    def codes(plane: np.ndarray) -> np.ndarray:
        out = np.zeros(plane.shape, np.uint8)
        count, height, width = plane.shape
        for n in range(count):
            pixel = [[int(value) for value in row] for row in plane[n]]
            for i in range(height):
                for j in range(width):
                    left = pixel[i][j - 1] if j else (pixel[i - 1][0] if i else 0)
                    upper = pixel[i - 1][j] if i else left
                    corner = pixel[i - 1][j - 1] if i and j else upper
                    guess = sorted((left, upper, left + upper - corner))[1]
                    residual = wrap(pixel[i][j] - guess)
                    out[n, i, j] = 2 * residual if residual >= 0 else -2 * residual - 1
        return out

    wide = images.astype(np.int64)
    red, green, blue = wide[:, 0], wide[:, 1], wide[:, 2]
    signed = [(difference + 128) % 256 - 128 for difference in (red - green, blue - green)]
    return {"g": codes(green), "rg": codes(signed[0]), "bg": codes(signed[1])}


class Payload:
    """Runs a command when unpickled by a careless reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def hostile_pickle(path: Path) -> bytes:
    return pickle.dumps({"data": Payload(path), "labels": [0]}, protocol=2)


@pytest.fixture(scope="session")
def originals() -> SimpleNamespace:
    """The writers above."""
    return SimpleNamespace(
        idx=idx,
        write_idx=write_idx,
        python2_pickle=python2_pickle,
        tar_gz=tar_gz,
        records=records,
        plane_codes=plane_codes,
        hostile_pickle=hostile_pickle,
    )


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads this machine's data or writes to its cache."""
    monkeypatch.delenv("KEZURI_DATA", raising=False)
    monkeypatch.setenv("KEZURI_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
