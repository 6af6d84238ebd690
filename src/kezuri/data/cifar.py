"""The two published forms of CIFAR: pickles, read without running anything, and binary records."""

import gzip
import pickle
import tarfile
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from kezuri.core.errors import DataError
from kezuri.data.formats import Pixels

SHAPE = (3, 32, 32)


def read_members(place: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The named files out of an extracted folder or of a .tar.gz archive (looked up by their last part).

    Raises:
        DataError: one is missing, or the archive is damaged.
    """
    if place.is_dir():
        try:
            return {name: (place / name).read_bytes() for name in names}
        except OSError as error:
            raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
    found: dict[str, bytes] = {}
    try:
        with gzip.open(place) as unzipped, tarfile.open(fileobj=unzipped, mode="r|") as archive:
            for entry in archive:
                name = Path(entry.name).name
                stream = archive.extractfile(entry) if name in names and entry.isfile() else None
                if stream is not None:
                    found[name] = stream.read()
            while unzipped.read(1 << 20):
                pass  # only at its end does gzip compare the checksum
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(f"{place} is damaged: {error}") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{place} does not hold {', '.join(missing)}")
    return found


def parse_pickle(content: bytes, name: str, labels: str) -> tuple[Pixels, Pixels]:
    """Images and labels of one CIFAR pickle; nothing in the file is executed.

    Args:
        content: the file: a dictionary with `data`, uint8 (N, 3072), and a list of labels.
        name: for the message.
        labels: the entry that holds the labels: `labels` (CIFAR-10) or `fine_labels` (CIFAR-100).

    Returns:
        images (N, 3, 32, 32) and labels (N,), both uint8.

    Raises:
        DataError: the file is cut short, asks for anything but a numpy array, or lacks an entry.
    """
    try:
        entries = _ArraysOnly(BytesIO(content), encoding="bytes").load()
        held = {key.decode() if isinstance(key, bytes) else key: value for key, value in entries.items()}
        images = held["data"].pixels()
        classes = np.array(held[labels], np.uint8)
        return images.reshape(-1, *SHAPE), classes.reshape(len(images))
    except pickle.UnpicklingError as error:
        raise DataError(f"{name} is not a CIFAR pickle: {error}") from error
    except KeyError as error:
        raise DataError(f"{name} is not a CIFAR pickle: it has no entry {error}") from error
    except (ValueError, TypeError, AttributeError, IndexError, EOFError, OverflowError, MemoryError) as error:
        raise DataError(f"{name} is damaged or not a CIFAR pickle: {error}") from error


def parse_binary(content: bytes, name: str, label_bytes: int) -> tuple[Pixels, Pixels]:
    """Images and labels of one file of the "binary version"; the last label byte of a record counts.

    Args:
        content: records of `label_bytes` labels (CIFAR-100: coarse, fine) and 3072 pixels.
        name: for the message.
        label_bytes: 1 for CIFAR-10, 2 for CIFAR-100.

    Raises:
        DataError: the size is not a whole number of records.
    """
    record = label_bytes + 3072
    if not content or len(content) % record:
        raise DataError(
            f"{name} has the wrong size: {len(content):,} bytes are not records of {record:,} bytes"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    return rows[:, label_bytes:].reshape(-1, *SHAPE), rows[:, label_bytes - 1].copy()


class _DType:
    """Stands in for numpy.dtype: remembers its code, does nothing."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code.decode() if isinstance(code, bytes) else code

    def __setstate__(self, state: Any) -> None:
        """Byte order and fields: of no meaning for single bytes."""


class _Array:
    """Stands in for numpy.ndarray: takes over shape and bytes, does nothing."""

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.fortran, self.raw = state

    def pixels(self) -> Pixels:
        if self.dtype.code not in ("u1", "|u1") or not isinstance(self.raw, bytes):
            raise ValueError(f"the images are {self.dtype.code}, expected u1")
        if self.fortran:
            raise ValueError("the images are stored column by column")
        return np.frombuffer(self.raw, np.uint8).reshape(self.shape)


def _new_array(*_: Any) -> _Array:
    return _Array()


class _ArraysOnly(pickle.Unpickler):
    """Builds the stand-ins where the file asks for numpy, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        stand_ins = {"_reconstruct": _new_array, "ndarray": _Array, "dtype": _DType}
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") and name in stand_ins:
            return stand_ins[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, only a numpy array is allowed")
