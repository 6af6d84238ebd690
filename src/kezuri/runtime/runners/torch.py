"""PyTorch itself, on the CPU: what the model was trained with."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import nn

from kezuri.core.errors import ShapeError, UsageError
from kezuri.runtime.runner import Images, Logits, Threads, runners, thread_count


class TorchSession:
    """A copy of a module, in evaluation mode."""

    runtime = "torch"

    def __init__(self, model: nn.Module, threads: Threads) -> None:
        self.threads = threads
        self._model = model
        self._count = thread_count(threads)

    def run(self, images: Images) -> Logits:
        # a copy, because a layer that works in place would write into the caller's images
        batch = torch.from_numpy(np.array(images, dtype=np.float32, order="C"))
        with torch.inference_mode(), _threads(self._count):
            try:
                logits: Logits = self._model(batch).numpy()
            except RuntimeError as error:
                shape = list(images.shape)
                raise ShapeError(f"the model does not take images of {shape}: {error}") from error
        return logits


@runners.register("torch")
@dataclass(frozen=True)
class Torch:
    """Runs a module as it is, uncompiled; changing the module later does not change the session."""

    takes: ClassVar[Literal["file", "module"]] = "module"

    def check_installed(self) -> None:
        """Kezuri does not import without it."""

    def prepare(self, model: Path | nn.Module, *, threads: Threads = 1) -> TorchSession:
        if not isinstance(model, nn.Module):
            raise UsageError(f"torch runs a torch.nn.Module, got a {type(model).__name__}")
        return TorchSession(deepcopy(model).cpu().eval(), threads)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
