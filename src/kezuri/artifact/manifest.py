"""What a run is, on what machine it ran, how it ended, and the hash of every file it leaves."""

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kezuri.artifact.atomic import read_json, sha256_of, write_json
from kezuri.artifact.folder import RunFolder
from kezuri.core.errors import CorruptArtifact

PACKAGES = ("kezuri", "torch", "numpy", "onnx", "onnxscript", "onnxruntime", "openvino")


def environment() -> dict[str, Any]:
    """Versions and machine, enough to tell two results apart; no host name, no user, no paths."""
    return {
        "packages": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": processor(),
        "cores": os.cpu_count(),
    }


def processor() -> str:
    """The processor's model name, or its architecture where the system does not tell."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


class Manifest:
    """`manifest.json`: reading gives plain data, `update` merges and writes it atomically."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def read(self) -> dict[str, Any]:
        """The manifest's content; empty before the run started."""
        if not self.folder.manifest.exists():
            return {}
        content = read_json(self.folder.manifest)
        if not isinstance(content, dict):
            raise CorruptArtifact(f"{self.folder.manifest} does not hold a JSON object")
        return content

    def update(self, **entries: Any) -> None:
        """Sets top-level entries and the time of the change."""
        write_json(self.folder.manifest, {**self.read(), **entries, "updated": now()})

    def seal(self, *paths: Path) -> None:
        """Notes the hash of files that are final."""
        files = {str(path.relative_to(self.folder.path)): sha256_of(path) for path in paths}
        self.update(files={**self.read().get("files", {}), **files})

    def damaged(self) -> Mapping[str, str]:
        """The sealed files that are no longer as written, each with what is wrong with it."""
        wrong = {}
        for name, expected in self.read().get("files", {}).items():
            path = self.folder.path / name
            if not path.exists():
                wrong[name] = "missing"
            elif sha256_of(path) != expected:
                wrong[name] = "changed since it was written"
        return wrong


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
