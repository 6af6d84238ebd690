"""OpenVINO on the CPU, where its package is installed (`pip install 'kezuri[openvino]'`)."""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from torch import nn

from kezuri.core.errors import DataError, ShapeError, UsageError
from kezuri.runtime.runner import Images, Logits, Threads, runners, thread_count


class OpenVinoSession:
    """An ONNX file compiled by OpenVINO."""

    runtime = "openvino"

    def __init__(self, compiled: Any, threads: Threads) -> None:
        self.threads = threads
        self._compiled = compiled

    def run(self, images: Images) -> Logits:
        batch = np.ascontiguousarray(images, dtype=np.float32)
        wanted = self._compiled.inputs[0].get_partial_shape()
        if len(wanted) != batch.ndim or not all(
            size.is_dynamic or size.get_length() == got for size, got in zip(wanted, batch.shape, strict=True)
        ):
            raise ShapeError(f"the ONNX model takes images of {wanted}, got {list(batch.shape)}")
        logits: Logits = self._compiled(batch)[self._compiled.outputs[0]].copy()
        return logits


@runners.register("openvino")
@dataclass(frozen=True)
class OpenVino:
    """Runs an ONNX file with OpenVINO's CPU kernels, in float32 where the file has floats."""

    takes: ClassVar[Literal["file", "module"]] = "file"

    def check_installed(self) -> None:
        if find_spec("openvino") is None:
            raise UsageError("OpenVINO is not installed (pip install 'kezuri[openvino]')")

    def prepare(self, model: Path | nn.Module, *, threads: Threads = 1) -> OpenVinoSession:
        if not isinstance(model, Path):
            raise UsageError(f"openvino runs an ONNX file, got a {type(model).__name__}: export it first")
        self.check_installed()
        if not model.is_file():
            raise DataError(f"no file {model} to run")
        settings = {
            "INFERENCE_NUM_THREADS": thread_count(threads),
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",  # some processors would take bfloat16
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            core = _core()
            compiled = core.compile_model(core.read_model(str(model)), "CPU", settings)
        except Exception as error:
            raise DataError(f"OpenVINO cannot load {model}: {str(error).splitlines()[0]}") from error
        return OpenVinoSession(compiled, threads)


@cache
def _core() -> Any:
    """The one OpenVINO of this process, which is never let go.

    The CPU plugin of every `Core` puts a signal stack of its own on the thread and frees it with the `Core`.
    Where two have lived at once the freed stack stays in use, and the next signal ends the process.
    """
    import openvino

    return openvino.Core()
