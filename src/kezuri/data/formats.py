"""Files that images come in: idx (MNIST), and the compact planes format of the CIFAR archives."""

import gzip
import lzma
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kezuri.core.errors import DataError

Pixels = NDArray[np.uint8]

_BLOCK = 4096  # images decoded at once: one pixel position of all of them fits the first cache
_PLANES = ("g", "rg", "bg")


def read_idx(path: Path) -> Pixels:
    """The array in an idx file of unsigned bytes, gzipped or not.

    Args:
        path: `train-images-idx3-ubyte`, with or without `.gz`.

    Returns:
        an array of the shape that the file states: (N, H, W) for images, (N,) for labels.

    Raises:
        DataError: the file cannot be read, is cut short, or is not idx; it says what is wrong.

    Source: Y. LeCun, C. Cortes and C. Burges, "The MNIST database", 1998.
    """
    return parse_idx(unpacked(path), path)


def unpacked(path: Path) -> bytes:
    """The content of a file, gunzipped when it is gzipped.

    Raises:
        DataError: the file cannot be read, or the gzip stream is damaged.
    """
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except EOFError as error:
        raise DataError(f"{path} is cut short: the gzip stream ends before its end mark") from error
    except (OSError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def parse_idx(content: bytes, path: Path) -> Pixels:
    """The array in the bytes of an idx file; `path` is only for the message."""
    if len(content) < 4 or content[:2] != b"\x00\x00" or content[2] != 8:
        raise DataError(
            f"{path} is not an idx file of bytes: it starts with {content[:4].hex(' ') or 'nothing'}, "
            f"expected 00 00 08 and the number of dimensions"
        )
    dimensions = content[3]
    header = 4 + 4 * dimensions
    if dimensions == 0 or len(content) < header:
        raise DataError(f"{path} is cut short: {len(content)} bytes, its header alone needs {header}")
    shape = [int(size) for size in np.frombuffer(content, ">u4", dimensions, offset=4)]
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{path} has the wrong size: shape {tuple(shape)} needs {math.prod(shape):,} bytes, "
            f"it holds {len(content) - header:,}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def read_npz(path: Path, only: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file, members unpacked side by side; nothing pickled is accepted.

    Args:
        path: the file.
        only: the arrays to read; all when empty.

    Raises:
        DataError: the file is missing, damaged, or holds objects instead of numbers.
    """

    def member(name: str) -> NDArray[Any]:
        with zipfile.ZipFile(path) as archive, archive.open(name) as stream:
            array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
            return array

    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if not only or n.removesuffix(".npy") in only]
        with ThreadPoolExecutor() as pool:
            return {
                name.removesuffix(".npy"): array
                for name, array in zip(names, pool.map(member, names), strict=True)
            }
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{path} is damaged or not an .npz file: {error}") from error


def decode_planes(planes: Mapping[str, NDArray[Any]]) -> Pixels:
    """RGB images from their green, red − green and blue − green planes of prediction residuals.

    Each plane predicts a pixel as the median of left, upper, and left + upper − upper-left, and holds the
    zig-zag code of what is missing (0, −1, 1, −2, … become 0, 1, 2, 3, …), modulo 256.

    Args:
        planes: uint8 arrays (N, H, W) under `g`, `rg` and `bg`.

    Returns:
        uint8 images (N, 3, H, W).

    Raises:
        DataError: a plane is missing, is not uint8, or differs in shape from the others.

    Source: the predictor of LOCO-I (Weinberger, Seroussi and Sapiro, 2000).
    """
    shapes = {name: (planes[name].shape, planes[name].dtype.name) for name in _PLANES if name in planes}
    shape = shapes.get("g", ((), ""))[0]
    if len(shape) != 3 or any(shapes.get(name) != (shape, "uint8") for name in _PLANES):
        raise DataError(f"planes {', '.join(_PLANES)} must be uint8 of one shape (N, H, W), got {shapes}")
    images = np.empty((shape[0], 3, *shape[1:]), np.uint8)

    def decode(first: int) -> None:
        block = slice(first, first + _BLOCK)
        green = _restore(planes["g"][block], signed=False)
        images[block, 1] = green
        for channel, name in ((0, "rg"), (2, "bg")):
            images[block, channel] = _restore(planes[name][block], signed=True) + green

    with ThreadPoolExecutor() as pool:
        list(pool.map(decode, range(0, shape[0], _BLOCK)))
    return images


def _restore(codes: Pixels, *, signed: bool) -> Pixels:
    """One plane from its residual codes, (N, H, W); differences of colours wrap to −128 … 127."""
    count, height, width = codes.shape
    codes = np.ascontiguousarray(codes.reshape(count, -1).T)
    residual = ((codes >> 1) ^ -(codes & 1)).view(np.int8).astype(np.int16).reshape(height, width, count)
    plane = np.zeros((height + 1, width + 1, count), np.int16)  # row 0 and column 0: the borders
    low, guess = np.empty(count, np.int16), np.empty(count, np.int16)
    wrapped = np.empty(count, np.int8 if signed else np.uint8)
    for row in range(1, height + 1):
        plane[row, 0] = plane[row - 1, 1]  # left of the first pixel counts what is above it
        plane[row - 1, 0] = plane[row - 1, 1]
        for column in range(1, width + 1):
            left = plane[row, column - 1]
            upper = plane[row - 1, column] if row > 1 else left
            corner = plane[row - 1, column - 1] if row > 1 else left
            np.add(left, upper, out=guess)
            guess -= corner
            np.minimum(left, upper, out=low)
            np.maximum(guess, low, out=guess)
            np.maximum(left, upper, out=low)
            np.minimum(guess, low, out=guess)
            guess += residual[row - 1, column - 1]
            np.copyto(wrapped, guess, casting="unsafe")
            plane[row, column] = wrapped
    restored = plane[1:, 1:].reshape(-1, count).T.astype(np.uint8)
    return restored.reshape(count, height, width)
