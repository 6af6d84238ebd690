"""One process at a time in a folder."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kezuri.artifact.atomic import explain
from kezuri.core.errors import InUse


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Keeps other processes out of the folder, which is made if need be; the lock dies with its process.

    Args:
        folder: what is locked.
        wait: until whoever has it is done, where it is locked.

    Raises:
        InUse: another process has it, and `wait` is off.
        ResourceError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise explain(error, folder) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InUse(f"{folder} is being worked on by another process") from error
        yield
