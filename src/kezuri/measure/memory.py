"""Peak memory of running an ONNX file, in a process of its own."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from kezuri.core.errors import DataError, ResourceError, UsageError
from kezuri.core.measurement import Measurement

CHILD = Path(__file__).with_name("memory_child.py")
RUNTIMES = ("onnxruntime", "openvino")


def peak_memory(
    onnx_path: Path,
    image_shape: tuple[int, int, int],
    *,
    runtime: str = "onnxruntime",
    batch: int = 1,
    repeats: int = 3,
) -> Measurement:
    """Bytes that loading and running a model adds to a process with its runtime in it, at the peak.

    Resident memory of a fresh process that loads the file and runs it on one thread, less that of a fresh
    process which only imports the runtime. Median of `repeats` pairs, lowest and highest as the spread.

    Args:
        onnx_path: the file.
        image_shape: (channels, height, width).
        runtime: "onnxruntime" or "openvino".
        batch: images a call.
        repeats: pairs of processes.

    Raises:
        UsageError: it is another runtime.
        DataError: the file is missing or cannot be run on such images.
        ResourceError: this system does not tell a process its peak.
    """
    if runtime not in RUNTIMES:
        raise UsageError(f"peak memory is measured in {' or '.join(RUNTIMES)}, got {runtime!r}")
    if not onnx_path.is_file():
        raise DataError(f"no file {onnx_path} to run")
    shape = [batch, *image_shape]
    added = [max(0, _peak(onnx_path, shape, runtime) - _peak(None, shape, runtime)) for _ in range(repeats)]
    return Measurement(
        "memory",
        statistics.median(added),
        "bytes",
        low=min(added),
        high=max(added),
        samples=repeats,
        conditions={"runtime": runtime, "threads": 1, "batch": batch},
    )


def _peak(onnx_path: Path | None, shape: list[int], runtime: str) -> int:
    if os.name != "posix":
        raise ResourceError("peak memory can be measured on Linux and macOS only")
    told = json.dumps({"model": onnx_path and str(onnx_path.resolve()), "shape": shape, "runtime": runtime})
    # -P: the modules beside the script must not hide those of the standard library
    child = subprocess.run(
        [sys.executable, "-P", str(CHILD), told], capture_output=True, text=True, check=False
    )
    if child.returncode != 0:
        reason = child.stderr.strip().splitlines()[-1:] or [f"it ended with {child.returncode}"]
        raise DataError(f"{onnx_path} could not be run on images of {shape}: {reason[0]}")
    return int(child.stdout)
