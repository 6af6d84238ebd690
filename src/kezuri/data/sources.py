"""Where the bytes of a data set come from: folders on this machine, the network, the cache."""

import errno
import hashlib
import http.client
import io
import os
import shutil
import tempfile
import urllib.request
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kezuri.artifact.atomic import write_bytes
from kezuri.core.errors import DataError, KezuriWarning, ResourceError
from kezuri.data.formats import Pixels, unpacked

_TIMEOUT = 30.0  # seconds without a byte before an address is given up
_CHUNK = 1 << 20


def cache_folder() -> Path:
    """Where downloads and decoded copies are kept: `KEZURI_CACHE`, or `~/.cache/kezuri`."""
    named = os.environ.get("KEZURI_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "kezuri"


def data_folders(root: Path | None) -> tuple[Path, ...]:
    """The folders that may hold data sets, in the order they are searched.

    Args:
        root: the only folder to use; None for `KEZURI_DATA`, `./data` and the cache, in this order.
    """
    if root is not None:
        return (root,)
    named = os.environ.get("KEZURI_DATA")
    return (*((Path(named),) if named else ()), Path("data"), cache_folder() / "data")


@dataclass(frozen=True)
class Download:
    """One file of a data set on the network.

    Attributes:
        name: the file's name on disk.
        addresses: where it can be had, best first.
        sha256: of the file, or of what it unpacks to.
        unpacked: which of the two; a gzip file packed anew differs, its content does not.
    """

    name: str
    addresses: tuple[str, ...]
    sha256: str
    unpacked: bool = False

    def fetch(self, folder: Path, tried: list[str]) -> bool:
        """Downloads into `folder` unless it is there; notes in `tried` why an address failed.

        The file appears under its name only when complete and with the right hash.

        Raises:
            ResourceError: the folder cannot be written or is full.
        """
        target = folder / self.name
        if target.exists():
            return True
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{self.name}.", suffix=".part", dir=folder)
            os.close(handle)
        except OSError as error:
            raise ResourceError(f"cannot write to {folder}: {error.strerror or error}") from error
        part = Path(name)
        try:
            for address in self.addresses:
                reason = self._try(address, part)
                if reason is None:
                    part.chmod(0o644)
                    part.replace(target)
                    return True
                tried.append(f"{address}: {reason}")
            return False
        finally:
            part.unlink(missing_ok=True)

    def _try(self, address: str, part: Path) -> str | None:
        """Downloads to `part`; answers what went wrong, if anything."""
        try:
            with (
                urllib.request.urlopen(address, timeout=_TIMEOUT) as response,
                part.open("wb") as file,
            ):
                shutil.copyfileobj(response, file, _CHUNK)
            content = unpacked(part) if self.unpacked else part.read_bytes()
        except (OSError, ValueError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise ResourceError(f"no room to download {self.name} to {part.parent}") from error
            return str(error) or type(error).__name__
        except DataError:
            return "what came is damaged"
        found = hashlib.sha256(content).hexdigest()
        return None if found == self.sha256 else f"SHA-256 is {found[:12]}…, expected {self.sha256[:12]}…"


def check_hash(content: bytes | memoryview, expected: str, name: object) -> None:
    """Compares a SHA-256 (64 hex digits) or an MD5 (32) with the published one.

    Raises:
        DataError: it differs; the file is named.
    """
    kind = "sha256" if len(expected) == 64 else "md5"
    found = hashlib.new(kind, content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise DataError(
            f"{name} is damaged or another file: its {kind.upper()} is {found[:12]}…, "
            f"expected {expected[:12]}…"
        )


def decoded_once(key: str, sha256: str, decode: Callable[[], Pixels]) -> Pixels:
    """What `decode` gives, kept in the cache so that the next load takes no decoding.

    Args:
        key: the start of the cached file's name.
        sha256: of the decoded bytes; a cached copy that differs is decoded anew and replaced.
        decode: the slow way.

    Raises:
        DataError: what was decoded has another hash.
    """
    path = cache_folder() / "decoded" / f"{key}-{sha256[:16]}.npy"
    try:
        kept: Pixels = np.load(path, allow_pickle=False)
        check_hash(np.ascontiguousarray(kept).data, sha256, path)
        return kept
    except (OSError, ValueError, EOFError, DataError):
        decoded = decode()  # not there, or damaged
    check_hash(np.ascontiguousarray(decoded).data, sha256, key)
    whole = io.BytesIO()
    np.save(whole, decoded, allow_pickle=False)
    try:
        write_bytes(path, whole.getvalue())
    except ResourceError as error:
        warnings.warn(
            f"the decoded copy of {key} could not be kept ({error}); the next load decodes it again",
            KezuriWarning,
            stacklevel=2,
        )
    return decoded
