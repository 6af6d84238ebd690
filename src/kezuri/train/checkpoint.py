"""Checkpoints of a training: safetensors with a hash beside it, the last two kept, never a pickle."""

import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from kezuri.artifact.atomic import read_checked, read_json, write_bytes, write_json
from kezuri.core.errors import CorruptArtifact, KezuriWarning

KEPT = 2
LOST_SECONDS = 20.0
OVERHEAD = 0.05


@dataclass(frozen=True)
class Snapshot:
    """What one checkpoint holds: tensors by name (contiguous, on the CPU) and plain data."""

    tensors: dict[str, Tensor]
    about: dict[str, Any]


class Checkpoints:
    """The checkpoints in a folder: `0007.safetensors`, and `0007.json` with its hash, written after it.

    A data file without its JSON is a write that was cut short, and does not count.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._damaged: set[int] = set()

    def write(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """Adds a checkpoint, and removes all but the last two once it is safely there.

        Raises:
            ResourceError: the disk is full or the folder cannot be written; the earlier ones are intact.
        """
        number = max(self._numbers(), default=0) + 1
        copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
        content = safetensors.torch.save(copies, {"about": json.dumps(about)})
        digest = write_bytes(self._data(number), content)
        write_json(self._seal(number), {"sha256": digest})
        self._tidy()

    def read(self) -> Snapshot | None:
        """The newest checkpoint that is as it was written; None where there is none.

        A damaged one is passed over with a KezuriWarning that names it and says what is done instead.
        """
        numbers = sorted(self._numbers(), reverse=True)
        for place, number in enumerate(numbers):
            try:
                return self._read(number)
            except CorruptArtifact as error:
                self._damaged.add(number)
                last = place == len(numbers) - 1
                instead = "training starts over" if last else "going on from the checkpoint before it"
                warnings.warn(f"{error}; {instead}", KezuriWarning, stacklevel=2)
        return None

    def _read(self, number: int) -> Snapshot:
        seal = read_json(self._seal(number))
        digest = seal.get("sha256") if isinstance(seal, dict) else None
        content = read_checked(self._data(number), str(digest))
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return Snapshot(safetensors.torch.load(content), json.loads(header["__metadata__"]["about"]))

    def _numbers(self) -> list[int]:
        return [int(path.stem) for path in self.folder.glob("*.json") if path.stem.isdecimal()]

    def _data(self, number: int) -> Path:
        return self.folder / f"{number:04d}.safetensors"

    def _seal(self, number: int) -> Path:
        return self.folder / f"{number:04d}.json"

    def _tidy(self) -> None:
        kept = sorted(set(self._numbers()) - self._damaged)[-KEPT:]
        names = {path.name for number in kept for path in (self._data(number), self._seal(number))}
        # a killed write leaves a temporary file (.NAME.….part) or a data file without its JSON
        for pattern in ("*.json", "*.safetensors", ".*.part"):
            for path in self.folder.glob(pattern):
                if path.name not in names and (path.stem.isdecimal() or path.suffix == ".part"):
                    path.unlink(missing_ok=True)


class Cadence:
    """When to write: at most about 20 s of work is lost, and writing costs at most 5 % of the time."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._cost = 0.0

    def due(self, *, epoch_ended: bool) -> bool:
        """Whether now is the time: at the end of an epoch sooner than within one."""
        least = self._cost / OVERHEAD
        return time.monotonic() - self._last >= (least if epoch_ended else max(least, LOST_SECONDS))

    def wrote(self, seconds: float) -> None:
        """Notes what a write cost."""
        self._cost = seconds
        self._last = time.monotonic()
