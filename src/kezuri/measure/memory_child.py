"""The process whose memory is measured: imports ONNX Runtime, runs a model if given one, prints its peak."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

RUNS = 3


def run(model: str, shape: list[int]) -> None:
    """Loads and runs the model on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    images = np.zeros(shape, dtype=np.float32)
    for _ in range(RUNS):
        session.run(None, {session.get_inputs()[0].name: images})


def peak() -> int:
    """The highest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # not getrusage: on Linux its maximum starts at the size of the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    if told["model"] is not None:
        run(told["model"], told["shape"])
    sys.stdout.write(str(peak()))
