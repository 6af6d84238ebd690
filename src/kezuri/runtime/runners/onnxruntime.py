"""ONNX Runtime on the CPU: what most models are deployed with."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import onnxruntime as ort
from torch import nn

from kezuri.core.errors import DataError, ShapeError, UsageError
from kezuri.runtime.runner import Images, Logits, Threads, runners, thread_count

ONLY_FATAL = 4


class OnnxRuntimeSession:
    """An ONNX file held by ONNX Runtime."""

    runtime = "onnxruntime"

    def __init__(self, session: ort.InferenceSession, threads: Threads) -> None:
        self.threads = threads
        self._session = session
        self._input = session.get_inputs()[0]

    def run(self, images: Images) -> Logits:
        images = np.ascontiguousarray(images, dtype=np.float32)
        wanted = self._input.shape
        fits = len(wanted) == images.ndim and all(
            not isinstance(want, int) or want == got for want, got in zip(wanted, images.shape, strict=True)
        )
        if not fits:
            raise ShapeError(f"the ONNX model takes images of {wanted}, got {list(images.shape)}")
        logits: Logits = self._session.run(None, {self._input.name: images})[0]
        return logits


@runners.register("onnxruntime")
@dataclass(frozen=True)
class OnnxRuntime:
    """Runs an ONNX file with ONNX Runtime's CPU kernels, all graph optimisations on."""

    takes: ClassVar[Literal["file", "module"]] = "file"

    def check_installed(self) -> None:
        """Kezuri does not import without it."""

    def prepare(self, model: Path | nn.Module, *, threads: Threads = 1) -> OnnxRuntimeSession:
        if not isinstance(model, Path):
            raise UsageError(f"onnxruntime runs an ONNX file, got a {type(model).__name__}: export it first")
        if not model.is_file():
            raise DataError(f"no file {model} to run")
        options = ort.SessionOptions()
        # an explicit number, because 0 pins threads to cores that a container may not give
        options.intra_op_num_threads = thread_count(threads)
        options.inter_op_num_threads = 1
        options.log_severity_level = ONLY_FATAL
        try:
            session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise DataError(f"ONNX Runtime cannot load {model}: {str(error).splitlines()[0]}") from error
        return OnnxRuntimeSession(session, threads)
