"""Time of one call, measured alone or against others in turns."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kezuri.core.errors import UsageError
from kezuri.core.measurement import Measurement
from kezuri.runtime.runner import Images, Session

WARM_UP = 10
AT_LEAST = 10
RACES = 3


@dataclass(frozen=True)
class Comparison:
    """Contestants measured in turns, so that a change of the machine's speed meets all of them.

    Attributes:
        latencies: by contestant, in milliseconds a call.
        speedups: by contestant, how many times faster than the first one; median and 10th to 90th percentile
            of the ratios within a turn.
    """

    latencies: Mapping[str, Measurement]
    speedups: Mapping[str, Measurement]


def latency(
    session: Session,
    image_shape: tuple[int, ...],
    *,
    batch: int = 1,
    calls: int = 200,
    budget_seconds: float = 5.0,
) -> Measurement:
    """Milliseconds a call on `batch` images: median, with the 10th and 90th percentile as the spread.

    One thread is timed by the processor time of this process, which other programs do not disturb; several
    threads by the clock on the wall. The conditions say which. Ten calls warm up; then at most `calls` are
    timed, fewer (ten at least) when `budget_seconds` are over.

    Raises:
        UsageError: no image or no call was asked for.
        ShapeError: the model does not take such images.
    """
    return compare_latency(
        {"": session}, image_shape, batch=batch, calls=calls, budget_seconds=budget_seconds
    ).latencies[""]


def compare_latency(
    sessions: Mapping[str, Session],
    image_shape: tuple[int, ...],
    *,
    batch: int = 1,
    calls: int = 200,
    budget_seconds: float = 10.0,
) -> Comparison:
    """Times several sessions in turns, each turn in the reverse order of the one before.

    In its turn a session makes two calls, and the second counts: the first finds the caches full of what the
    others left there, which would make every result depend on who else takes part.

    Args:
        sessions: by name; all on the same number of threads; ratios are against the first.
        image_shape: of one image, (channels, height, width) for most.
        batch: images a call.
        calls: turns at most; `budget_seconds` of wall time for all sessions may end them earlier.

    Raises:
        UsageError: no session, image or call, or sessions on different numbers of threads.
        ShapeError: a model does not take such images.
    """
    if not sessions or batch < 1 or calls < 1:
        raise UsageError(f"nothing to time: {len(sessions)} sessions, {batch} images, {calls} calls")
    threads = {session.threads for session in sessions.values()}
    if len(threads) > 1:
        raise UsageError(
            f"sessions on different numbers of threads cannot be compared: {sorted(map(str, threads))}"
        )
    clock = time.process_time_ns if threads == {1} else time.perf_counter_ns
    shape = (batch, *image_shape)
    images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    times = _take_turns(list(sessions.values()), images, clock, calls=calls, budget_seconds=budget_seconds)
    conditions = {"batch": batch, "clock": "processor" if threads == {1} else "wall"}
    latencies = {
        name: _summary("latency", "ms", row).under(
            runtime=session.runtime, threads=session.threads, **conditions
        )
        for (name, session), row in zip(sessions.items(), times, strict=True)
    }
    first = next(iter(sessions))
    speedups = {
        name: _summary("speedup", "ratio", times[0] / row).under(against=first, **conditions)
        for name, row in zip(sessions, times, strict=True)
    }
    return Comparison(latencies, speedups)


def race(
    loads: Mapping[str, Callable[[], Session]],
    image_shape: tuple[int, ...],
    *,
    batch: int = 1,
    seconds: float,
) -> Comparison:
    """Times sessions in turns in three races, so many seconds in all; speedups are against the first.

    Models are loaded anew for each race, as where one happens to lie in memory is worth a per cent. Values
    are the median race's, spreads those of all races.

    Args:
        loads: what prepares each session.
        image_shape, batch: as in `compare_latency`.
    """
    races = [
        compare_latency(
            {name: load() for name, load in loads.items()},
            image_shape,
            batch=batch,
            calls=1000,
            budget_seconds=seconds / RACES,
        )
        for _ in range(RACES)
    ]
    return Comparison(
        {name: _pooled([one.latencies[name] for one in races]) for name in loads},
        {name: _pooled([one.speedups[name] for one in races]) for name in loads},
    )


def _pooled(races: Sequence[Measurement]) -> Measurement:
    middle = sorted(races, key=lambda race: race.value)[len(races) // 2]
    return replace(
        middle,
        low=min(race.value if race.low is None else race.low for race in races),
        high=max(race.value if race.high is None else race.high for race in races),
        samples=sum(race.samples for race in races),
    )


def _take_turns(
    sessions: list[Session],
    images: Images,
    clock: Callable[[], int],
    *,
    calls: int,
    budget_seconds: float,
) -> NDArray[np.float64]:
    """Milliseconds, one row a session and one column a turn."""
    for session in sessions:
        for _ in range(WARM_UP):
            session.run(images)
    turns: list[list[int]] = []
    end = time.monotonic() + budget_seconds
    order = list(range(len(sessions)))
    while len(turns) < calls and (len(turns) < AT_LEAST or time.monotonic() < end):
        taken = [0] * len(sessions)
        for index in order:
            sessions[index].run(images)
            start = clock()
            sessions[index].run(images)
            taken[index] = clock() - start
        turns.append(taken)
        order.reverse()
    # a clock tick is the least a call can take
    return np.maximum(np.array(turns, dtype=np.float64).T, 1) / 1e6


def _summary(metric: str, unit: str, values: NDArray[np.float64]) -> Measurement:
    low, median, high = (float(value) for value in np.percentile(values, (10, 50, 90)))
    return Measurement(metric, median, unit, low=low, high=high, samples=len(values))
