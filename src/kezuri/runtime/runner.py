"""The role: makes a model ready to run, and runs it."""

import os
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from kezuri.core.errors import UsageError
from kezuri.core.registry import Registry

Images = NDArray[np.float32]
Logits = NDArray[np.float32]
Threads = int | Literal["all"]
MOST_THREADS = 256  # with many thousands ONNX Runtime spends minutes on starting them


class Session(Protocol):
    """A model ready to run; says how, so that no measurement can be labelled wrongly.

    Attributes:
        runtime: the name of its runner.
        threads: as asked of the runner.
    """

    @property
    def runtime(self) -> str: ...

    @property
    def threads(self) -> Threads: ...

    def run(self, images: Images) -> Logits:
        """Images (N, C, H, W) to logits (N, classes); neither model nor images change.

        Raises:
            ShapeError: the model does not take images of this shape.
        """


class Runner(Protocol):
    """One way of running a model; a frozen dataclass.

    Attributes:
        takes: an ONNX file, or a module as it is.
    """

    takes: ClassVar[Literal["file", "module"]]

    def check_installed(self) -> None:
        """Raises UsageError, with what to install, if this runner cannot work here."""

    def prepare(self, model: Path | nn.Module, *, threads: Threads = 1) -> Session:
        """Loads a model to run on `threads` threads.

        Raises:
            UsageError: this runner does not take such a model.
            DataError: the file is missing or cannot be read.
        """


runners: Registry[type[Runner]] = Registry("runner")


def file_runner(name: str) -> Runner:
    """The runner of this name, for ONNX files.

    Raises:
        UnknownName: there is none.
        UsageError: it takes no files, or is not installed.
    """
    runner: Runner = runners[name]()
    if runner.takes != "file":
        able = ", ".join(sorted(one for one, kind in runners.items() if kind.takes == "file"))
        raise UsageError(f"what ships is an ONNX file, which {name} does not run (these do: {able})")
    runner.check_installed()
    return runner


def thread_count(threads: Threads) -> int:
    """The number of threads meant; "all" are the cores this process may use.

    Raises:
        UsageError: less than one thread.
    """
    if threads == "all":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
        raise UsageError(f"threads is a number from 1 to {MOST_THREADS}, or 'all'; got {threads!r}")
    return threads
