import time
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from kezuri.core.errors import ShapeError, UsageError
from kezuri.measure.latency import compare_latency, latency
from kezuri.runtime.runner import Images, Logits, Threads
from kezuri.runtime.runners.onnxruntime import OnnxRuntime
from kezuri.runtime.runners.torch import Torch

SHAPE = (10, 10, 10)


class Busy:
    """Counts to a number, which takes time in proportion, and notes its turn."""

    runtime = "python"

    def __init__(self, name: str, work: int, turns: list[str], threads: Threads = 1) -> None:
        self.name, self.work, self.turns, self.threads = name, work, turns, threads

    def run(self, images: Images) -> Logits:
        self.turns.append(self.name)
        for _ in range(self.work):
            pass
        return images


class Asleep(Busy):
    def run(self, images: Images) -> Logits:
        time.sleep(0.01)
        return images


def test_latency_says_under_what_it_holds(onnx_file: Path) -> None:
    measured = latency(OnnxRuntime().prepare(onnx_file), SHAPE, batch=3, calls=20)
    assert (measured.metric, measured.unit, measured.samples) == ("latency", "ms", 20)
    assert 0 < measured.low <= measured.value <= measured.high
    assert measured.conditions == {"runtime": "onnxruntime", "threads": 1, "batch": 3, "clock": "processor"}


def test_all_threads_are_timed_by_the_wall(onnx_file: Path) -> None:
    measured = latency(OnnxRuntime().prepare(onnx_file, threads="all"), SHAPE, calls=10)
    assert (measured.conditions["threads"], measured.conditions["clock"]) == ("all", "wall")


def test_sleeping_costs_the_wall_and_not_the_processor() -> None:
    alone = latency(Asleep("a", 0, []), SHAPE, calls=10).value
    together = latency(Asleep("a", 0, [], "all"), SHAPE, calls=10).value
    assert alone < together


def test_the_budget_ends_it_but_not_before_ten_calls() -> None:
    assert latency(Busy("a", 10, []), SHAPE, calls=1000, budget_seconds=0).samples == 10
    assert latency(Busy("a", 10, []), SHAPE, calls=4).samples == 4


def test_contestants_take_turns_in_alternating_order() -> None:
    turns: list[str] = []
    sessions = {name: Busy(name, 1, turns) for name in "abc"}
    compare_latency(sessions, SHAPE, calls=4)
    assert "".join(turns[30:]) == "aabbccccbbaa" * 2


def test_what_the_others_leave_in_the_caches_does_not_count() -> None:
    class Cold(Busy):
        """Slow whenever another has run since."""

        def run(self, images: Images) -> Logits:
            for _ in range(100_000 if self.turns[-1:] != [self.name] else 0):
                pass
            return super().run(images)

    turns: list[str] = []
    found = compare_latency({name: Cold(name, 1000, turns) for name in "ab"}, SHAPE, calls=10).latencies
    alone = latency(Cold("a", 1000, turns), SHAPE, calls=10)
    assert max(found["a"].value, found["b"].value) < 10 * alone.value


def test_ratios_are_against_the_first() -> None:
    turns: list[str] = []
    compared = compare_latency(
        {"slow": Busy("slow", 20_000, turns), "fast": Busy("fast", 2_000, turns)}, SHAPE
    )
    assert compared.speedups["slow"].value == 1
    fast = compared.speedups["fast"]
    assert fast.value > 1
    assert fast.low <= fast.value <= fast.high
    assert (fast.metric, fast.unit, fast.conditions["against"]) == ("speedup", "ratio", "slow")
    assert compared.latencies["fast"].value < compared.latencies["slow"].value


def test_every_session_sees_the_same_images(onnx_file: Path) -> None:
    layer = nn.Sequential(nn.Flatten(), nn.Linear(1000, 4000))
    sessions = {"file": OnnxRuntime().prepare(onnx_file), "module": Torch().prepare(layer)}
    compared = compare_latency(sessions, SHAPE, calls=5)
    assert [compared.latencies[name].conditions["runtime"] for name in sessions] == ["onnxruntime", "torch"]


def test_what_cannot_be_timed_is_refused(onnx_file: Path) -> None:
    session = OnnxRuntime().prepare(onnx_file)
    with pytest.raises(UsageError, match="0 sessions"):
        compare_latency({}, SHAPE)
    with pytest.raises(UsageError, match="0 images"):
        latency(session, SHAPE, batch=0)
    with pytest.raises(UsageError, match="different numbers of threads"):
        compare_latency({"a": session, "b": Busy("b", 1, [], "all")}, SHAPE)
    with pytest.raises(ShapeError, match="1, 3, 2, 2"):
        latency(session, (3, 2, 2))


def test_images_are_float32_and_the_same_every_time() -> None:
    class Keeps(Busy):
        def run(self, images: Images) -> Logits:
            seen.append(images.copy())
            return images

    seen: list[np.ndarray] = []
    latency(Keeps("k", 0, []), SHAPE, batch=2, calls=1)
    latency(Keeps("k", 0, []), SHAPE, batch=2, calls=1)
    assert seen[0].dtype == np.float32
    assert seen[0].shape == (2, *SHAPE)
    assert all(np.array_equal(images, seen[0]) for images in seen)
