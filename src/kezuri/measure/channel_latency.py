"""What one channel of a coupling costs in time: milliseconds, measured in the runtime."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from kezuri.core.errors import KezuriError, ModelError, UsageError
from kezuri.core.measurement import Measurement
from kezuri.core.progress import NullProgress, Progress
from kezuri.measure.channel_cost import ChannelCosts, Cutter
from kezuri.measure.latency import compare_latency, latency
from kezuri.model.families import Coupling, Couplings
from kezuri.model.shrink import Structure, structure_of
from kezuri.runtime.export import export_onnx
from kezuri.runtime.parity import TOLERANCE
from kezuri.runtime.runner import Threads, file_runner
from kezuri.runtime.sliced import SliceableExport

RACES = 3
RACE_SECONDS = 0.4


@dataclass(frozen=True)
class ChannelLatencies:
    """What was timed.

    Attributes:
        dense: milliseconds of the whole model for one image; None if it could not be timed.
        channels: by coupling name, the milliseconds that go with one channel: the median of three races, and
            the lowest and the highest of them.
        untimed: by coupling name, why there is no figure.
    """

    dense: Measurement | None = None
    channels: Mapping[str, Measurement] = field(default_factory=dict)
    untimed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ChannelTimer:
    """Times channels by racing models cut to half of some couplings against the whole model.

    One coupling of a deep network is a few per cent of its time, which drowns in the noise of a machine. So
    couplings that are alike, of the same sizes and with the same work, are cut together, and the time saved
    is shared by all the channels removed. Couplings that share a weight are never cut together.

    Attributes:
        runtime: the name of a runner that takes files.
        threads: of the runtime.
        budget_seconds: wall time for everything; no group is begun that would probably end later.
    """

    runtime: str = "onnxruntime"
    threads: Threads = 1
    budget_seconds: float = 60.0

    def __post_init__(self) -> None:
        file_runner(self.runtime)
        if not self.budget_seconds > 0:
            raise UsageError(f"the time budget must be above 0 seconds, got {self.budget_seconds}")

    def time(
        self,
        model: nn.Module,
        couplings: Couplings,
        image_shape: tuple[int, int, int],
        *,
        costs: ChannelCosts,
        progress: Progress | None = None,
    ) -> ChannelLatencies:
        """Times the couplings whose channels may go, those with the most MACs first.

        Args:
            model: left as it is.
            couplings: of this model.
            image_shape: (channels, height, width).
            costs: of this model; they say which couplings are alike, and which come first.
            progress: hears of every group that was timed.
        """
        groups = alike(couplings, costs)
        if not groups:
            return ChannelLatencies()
        with TemporaryDirectory() as folder:
            races = _Races(self, model, couplings, image_shape, Path(folder))
            return races.run(groups, progress or NullProgress())


def alike(couplings: Couplings, costs: ChannelCosts) -> list[tuple[Coupling, ...]]:
    """The free couplings in groups of equal sizes and work that share no weight; the most MACs first."""
    groups: dict[object, list[list[Coupling]]] = {}
    for coupling in couplings.free:
        if coupling.width > 1:
            _join(groups.setdefault(_likeness(coupling, couplings, costs), []), coupling)
    found = [tuple(group) for same in groups.values() for group in same]
    return sorted(found, key=lambda group: -sum(one.width * costs.macs[one.name] for one in group))


def _likeness(coupling: Coupling, couplings: Couplings, costs: ChannelCosts) -> object:
    members = sorted(
        (
            member.role,
            member.dim,
            member.positions.shape[1],
            couplings.shapes[member.parameter],
            costs.weights.get(member.parameter, 0),
        )
        for member in coupling.members
    )
    return coupling.width, costs.macs[coupling.name], tuple(members)


def _join(groups: list[list[Coupling]], coupling: Coupling) -> None:
    """Adds it to the first group it shares no weight with."""
    own = {member.parameter for member in coupling.members}
    for group in groups:
        if all(own.isdisjoint(member.parameter for member in other.members) for other in group):
            group.append(coupling)
            return
    groups.append([coupling])


class _Races:
    """The whole model against one with a group of couplings cut to half, group by group."""

    def __init__(
        self,
        timer: ChannelTimer,
        model: nn.Module,
        couplings: Couplings,
        image_shape: tuple[int, int, int],
        folder: Path,
    ) -> None:
        self.timer, self.couplings, self.image_shape = timer, couplings, image_shape
        self.runner = file_runner(timer.runtime)
        self.model = copy.deepcopy(model).cpu().eval()
        self.cutter = Cutter(self.model, couplings, image_shape)
        self.whole, self.half = folder / "whole.onnx", folder / "half.onnx"
        self.began = monotonic()
        self.export_seconds = self.longest = 0.0

    def run(self, groups: Sequence[tuple[Coupling, ...]], progress: Progress) -> ChannelLatencies:
        """Every group that the time allows for."""
        progress.start("timing", total=len(groups), done=0)
        try:
            return self._run(groups, progress)
        finally:
            progress.done()

    def _run(self, groups: Sequence[tuple[Coupling, ...]], progress: Progress) -> ChannelLatencies:
        try:
            self.export = SliceableExport(self.model, self.image_shape)
            self.export.write(Structure(), self.whole)
            session = self.runner.prepare(self.whole, threads=self.timer.threads)
            dense = latency(session, self.image_shape, budget_seconds=RACE_SECONDS)
        except KezuriError as error:
            return ChannelLatencies(untimed=dict.fromkeys(_names(groups), str(error)))
        self.export_seconds = monotonic() - self.began
        channels: dict[str, Measurement] = {}
        untimed: dict[str, str] = {}
        for group in groups:
            try:
                channels |= dict.fromkeys(_names([group]), self._timed(group))
            except KezuriError as error:
                untimed |= dict.fromkeys(_names([group]), str(error))
            progress.advance(1, {})
        return ChannelLatencies(dense, channels, untimed)

    def _timed(self, group: tuple[Coupling, ...]) -> Measurement:
        """Milliseconds for one channel of any of the group.

        Raises:
            UsageError: there is no time left for it.
            KezuriError: the cut model cannot be exported, or not run.
        """
        self._check_time(self.longest)
        began = monotonic()
        self._write_half({one.name: torch.arange(one.width) < one.width - one.width // 2 for one in group})
        saved, turns = [], 0
        for _ in range(RACES):
            # anew each time, as where a session's memory happens to lie is worth a per cent
            sessions = {
                name: self.runner.prepare(path, threads=self.timer.threads)
                for name, path in (("whole", self.whole), ("half", self.half))
            }
            raced = compare_latency(sessions, self.image_shape, budget_seconds=RACE_SECONDS)
            saved.append(raced.latencies["whole"].value * (1 - 1 / raced.speedups["half"].value))
            turns += raced.speedups["half"].samples
        self.longest = max(self.longest, monotonic() - began)
        removed = sum(one.width // 2 for one in group)
        low, middle, high = (value / removed for value in (min(saved), median(saved), max(saved)))
        conditions = {**raced.latencies["half"].conditions, "removed": removed, "together": _names([group])}
        return Measurement("channel_latency", middle, "ms", low, high, turns, conditions)

    def _write_half(self, kept: Mapping[str, Tensor]) -> None:
        """The cut model as ONNX: sliced out of the whole one's file, or exported where that does not do."""
        small = self.cutter.cut(kept).eval()
        try:
            self.export.write(structure_of(self.couplings, kept), self.half)
        except ModelError:
            self.half.unlink(missing_ok=True)
        if not self._agrees(small):
            self._check_time(self.longest + self.export_seconds)
            export_onnx(small, self.image_shape, self.half)
            if not self._agrees(small):
                raise ModelError("the exported cut model does not answer as the PyTorch one does")

    def _agrees(self, small: nn.Module) -> bool:
        """Whether the file answers as the cut model does."""
        images = np.random.default_rng(0).standard_normal((2, *self.image_shape), dtype=np.float32)
        with torch.no_grad():
            expected = pytree.tree_leaves(small(torch.from_numpy(images)))[0].numpy()
        try:
            found = self.runner.prepare(self.half).run(images)
        except Exception:  # a runtime's own errors share no base: sizes do not fit
            return False
        apart = np.abs(found - expected).max() if found.shape == expected.shape else np.inf
        return bool(apart <= TOLERANCE * np.abs(expected).max())

    def _check_time(self, seconds: float) -> None:
        """Ends what would take so much longer than there is time for."""
        if monotonic() - self.began + seconds > self.timer.budget_seconds:
            raise UsageError(f"the {self.timer.budget_seconds:g} s allowed for timing were over")


def _names(groups: Sequence[tuple[Coupling, ...]]) -> list[str]:
    return [coupling.name for group in groups for coupling in group]
