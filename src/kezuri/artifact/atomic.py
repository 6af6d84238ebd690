"""Files that are whole or absent: written to a temporary name, flushed, renamed."""

import errno
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from kezuri.core.errors import CorruptArtifact, DataError, ResourceError


def write_bytes(path: Path, content: bytes) -> str:
    """Puts `content` at `path` in one step, so that a kill leaves the old file or the new one.

    Returns:
        the SHA-256 of the content, as hex digits.

    Raises:
        ResourceError: the disk is full or the folder cannot be written; what was there is untouched.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise explain(error, path, len(content)) from error
    return hashlib.sha256(content).hexdigest()


def explain(error: OSError, path: Path, size: int | None = None) -> ResourceError:
    """The error a user can act on, for a write that failed."""
    amount = "" if size is None else f" ({size:,} bytes)"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ResourceError(
            f"no room to write {path}{amount}: free some space, then resume; nothing was lost"
        )
    return ResourceError(f"cannot write {path}{amount}: {error.strerror or error}")


def write_json(path: Path, content: Any) -> str:
    """`write_bytes` of indented JSON."""
    return write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The JSON in `path`.

    Raises:
        DataError: there is no such file.
        CorruptArtifact: it does not hold JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"no file {path}") from error
    except (ValueError, OSError) as error:
        raise CorruptArtifact(f"{path} cannot be read: {error}") from error


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_checked(path: Path, sha256: str) -> bytes:
    """The content of `path` if it still has the hash it was written with.

    Raises:
        CorruptArtifact: the file is missing, or one byte or more of it changed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorruptArtifact(f"{path} cannot be read: {error.strerror or error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise CorruptArtifact(
            f"{path} is damaged: its SHA-256 is {found[:12]}…, it was written as {sha256[:12]}…"
        )
    return content


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
