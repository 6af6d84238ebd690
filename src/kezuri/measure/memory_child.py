"""The process whose memory is measured: imports a runtime, runs a model if given one, prints its peak."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

RUNS = 3


def onnxruntime() -> Callable[[str], Callable[[Any], object]]:
    """Imports it; gives what loads a file on one thread, and that what runs it."""
    import onnxruntime as ort

    def load(model: str) -> Callable[[Any], object]:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda images: session.run(None, {name: images})

    return load


def openvino() -> Callable[[str], Callable[[Any], object]]:
    """The same for OpenVINO."""
    import openvino

    core = openvino.Core()

    def load(model: str) -> Callable[[Any], object]:
        settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = core.compile_model(core.read_model(model), "CPU", settings)
        return lambda images: compiled(images)

    return load


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
    load = {"onnxruntime": onnxruntime, "openvino": openvino}[told["runtime"]]()
    if told["model"] is not None:
        run = load(told["model"])
        images = np.zeros(told["shape"], dtype=np.float32)
        for _ in range(RUNS):
            run(images)
    sys.stdout.write(str(peak()))
