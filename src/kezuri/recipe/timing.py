"""Proposals timed in the user's runtime, before anything is trained."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from kezuri.artifact.atomic import write_bytes
from kezuri.core.errors import UsageError
from kezuri.core.measurement import Measurement
from kezuri.measure.latency import Comparison, race
from kezuri.measure.size import weights_size
from kezuri.model.modes import device_of, evaluating
from kezuri.model.shrink import structure_of
from kezuri.recipe.costs import Costs, Proposal
from kezuri.runtime.export import _anonymise_, export_onnx
from kezuri.runtime.runner import Session, Threads, file_runner, runners
from kezuri.runtime.sliced import SliceableExport


@dataclass(frozen=True)
class Prepared:
    """A proposal ready to be loaded by the runtime.

    Attributes:
        model: the file, or the module where the runtime takes one.
        size: bytes of the file; of the weights where there is none.
    """

    model: Path | nn.Module
    size: Measurement


class Timing(AbstractContextManager["Timing"]):
    """Prepares the proposals for one model, each once, and times them in turns.

    One export serves them all where it can: a cut is a slice of the exported weights. A proposal whose slices
    do not run is cut and exported by itself.

    Args:
        costs: of the model; it takes one batch of floating point numbers, of which the first is timed.
        runtime: the name of a runner.
        threads: of the runtime.
    """

    def __init__(self, costs: Costs, runtime: str = "onnxruntime", threads: Threads = 1) -> None:
        """Nothing is exported yet.

        Raises:
            UsageError: the model takes something else.
            UnknownName: there is no such runner.
        """
        self.costs = costs
        self.runner = runners[runtime]()
        self.exports = self.runner.takes == "file"
        self.threads: Threads = threads
        self.shape = timed_shape(costs.inputs)
        self._folder = TemporaryDirectory()
        self._ready: dict[tuple[tuple[str, bytes], ...], Prepared] = {}

    def prepared(self, proposal: Proposal) -> Prepared:
        """The proposal in the form the runtime takes.

        Raises:
            ModelError: it cannot be exported; the operation at fault is named.
        """
        removing = {name: kept for name, kept in proposal.items() if not kept.all()}
        key = tuple(sorted((name, kept.numpy().tobytes()) for name, kept in removing.items()))
        if key not in self._ready:
            self._ready[key] = self._prepare(removing, Path(self._folder.name) / f"{len(self._ready)}.onnx")
        return self._ready[key]

    def compare(self, proposals: Mapping[str, Proposal], *, seconds: float) -> Comparison:
        """Times proposals in turns, as `race` does."""
        models = {name: self.prepared(proposal).model for name, proposal in proposals.items()}
        return self.race(models, seconds=seconds)

    def race(self, models: Mapping[str, Path | nn.Module], *, seconds: float) -> Comparison:
        """Times models of one input shape as `kezuri.measure.latency.race` does, so many seconds in all."""
        return race(
            {name: partial(self._loaded, model) for name, model in models.items()},
            self.shape,
            seconds=seconds,
        )

    def _loaded(self, model: Path | nn.Module) -> Session:
        session: Session = self.runner.prepare(model, threads=self.threads)
        return session

    def _prepare(self, proposal: Proposal, path: Path) -> Prepared:
        if not self.exports:
            model = self.costs.build(proposal)
            return Prepared(model, weights_size(model))
        if not self._slices(proposal, path):
            export_onnx(self.costs.build(proposal), self.shape, path)
        size = Measurement("size", path.stat().st_size, "bytes", conditions={"format": "onnx"})
        return Prepared(path, size)

    def _slices(self, proposal: Proposal, path: Path) -> bool:
        """Writes a slice of the one export; whether it runs and answers in the dense model's form."""
        images = np.zeros((2, *self.shape), dtype=np.float32)
        try:
            self._export.write(structure_of(self.costs.couplings, proposal), path)
            proto = onnx.load(path)
            _anonymise_(proto)
            _follow_groups_(proto, self.costs.couplings.shapes)
            write_bytes(path, proto.SerializeToString(deterministic=True))
            return self._loaded(path).run(images).shape == self._answer
        except Exception:  # a runtime's own errors share no base: sizes do not fit
            return False

    @cached_property
    def _export(self) -> SliceableExport:
        return SliceableExport(self.costs.model, self.shape)

    @cached_property
    def _answer(self) -> tuple[int, ...]:
        """The shape of the model's first answer to two examples."""
        model = self.costs.model
        examples = torch.zeros(2, *self.shape, device=device_of(model))
        with evaluating(model), torch.no_grad():
            first: Tensor = pytree.tree_leaves(model(examples))[0]
        return tuple(first.shape)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self


def timed_shape(inputs: tuple[Tensor, ...]) -> tuple[int, int, int]:
    """The shape of one example, as the runtimes take it.

    Raises:
        UsageError: the model takes several inputs, or something else than floating point numbers.
    """
    if len(inputs) != 1 or not inputs[0].is_floating_point() or inputs[0].dim() < 2:
        shapes = ", ".join(f"{tuple(part.shape)} {str(part.dtype).removeprefix('torch.')}" for part in inputs)
        raise UsageError(
            "size and latency are measured of models that take one batch of floating point numbers, got "
            f"{shapes}; give a budget of params or macs instead, and leave the pay-off check out"
        )
    shape: tuple[int, int, int] = tuple(inputs[0].shape[1:])  # type: ignore[assignment]
    return shape


def _follow_groups_(proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Depthwise convolutions have as many groups as channels, which slicing their weights does not change.

    Args:
        proto: with sliced weights.
        shapes: of the weights before, by name.
    """
    sizes = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        for attribute in node.attribute if node.op_type in ("Conv", "ConvTranspose") else ():
            before, after = shapes.get(node.input[1]), sizes.get(node.input[1])
            if attribute.name == "group" and attribute.i > 1 and before and after:
                depthwise = before[1] == 1 if node.op_type == "Conv" else before[0] == attribute.i
                attribute.i = attribute.i * after[0] // before[0] if depthwise else attribute.i


@dataclass(frozen=True)
class FileRace:
    """Times files in a runtime on one thread.

    Raises:
        UnknownName, UsageError: there is no such runner, it takes no files or is not installed.

    Attributes:
        runtime: the name of a runner that takes files.
        seconds: for each file.
    """

    runtime: str = "onnxruntime"
    seconds: float = 0.4

    def __post_init__(self) -> None:
        file_runner(self.runtime)

    def __call__(self, files: Mapping[str, Path], shape: tuple[int, ...]) -> dict[str, float]:
        """Milliseconds a call of each file for one batch of this shape, taken in turns."""
        runner = file_runner(self.runtime)
        loads = {name: partial(runner.prepare, path, threads=1) for name, path in files.items()}
        found = race(loads, shape[1:], batch=shape[0], seconds=self.seconds * len(files))
        return {name: one.value for name, one in found.latencies.items()}
