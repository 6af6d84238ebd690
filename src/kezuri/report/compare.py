"""Many runs side by side: which conditions are on the front, and which is best above the floor."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from kezuri.core.errors import UsageError
from kezuri.core.registry import unknown
from kezuri.report import numbers
from kezuri.report.reading import SPLITS, RunView

# What a comparison can be sorted by, and whether the largest comes first.
SORTS: Mapping[str, bool] = {
    "size": False,
    "accuracy": True,
    "params": False,
    "macs": False,
    "latency": False,
    "hours": False,
    "name": False,
}


@dataclass(frozen=True)
class Spread:
    """A value over the seeds of one condition: the mean, and how far single runs lie from it.

    Attributes:
        low, high: one standard deviation around the mean of several runs; of a single run the interval it
            was measured with, if any.
    """

    value: float
    low: float | None = None
    high: float | None = None
    runs: int = 1

    @property
    def deviation(self) -> float | None:
        """The standard deviation of single runs, where there are several."""
        return self.high - self.value if self.runs > 1 and self.high is not None else None


@dataclass(frozen=True)
class Condition:
    """One condition: a run, or several that differ by nothing but their seed.

    Attributes:
        accuracy: of the compressed model, a fraction. floor: what it had to keep, if anything.
        size, dense_size: bytes, compressed and before. latency: ms, median. hours: wall time of the run.
        zeros: fraction of the weights, where they are masked. runtime: what latency was taken in.
        finished: whether every run of it ended; only then it can be on the front or best.
    """

    name: str
    folders: tuple[Path, ...]
    rate: Any
    lr_ratio: Any
    rounds: float | None
    hours: Spread | None
    accuracy: Spread | None
    size: Spread | None
    params: Spread | None
    macs: Spread | None
    latency: Spread | None
    dense_size: float | None
    status: str
    floor: float | None = None
    zeros: Spread | None = None
    runtime: str | None = None
    on_front: bool = False

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def qualifies(self) -> bool:
        """Whether it is finished and keeps the floor."""
        if not self.finished or self.accuracy is None or self.floor is None:
            return False
        return self.accuracy.value >= self.floor


@dataclass(frozen=True)
class Comparison:
    """The conditions in the order asked for, those on the front marked.

    Attributes:
        split: the part of the data that accuracy is shown for.
        keep: the floor that was asked for, if any. best: the smallest that keeps it.
    """

    conditions: tuple[Condition, ...]
    split: str
    keep: float | None
    best: Condition | None

    def headline(self) -> str:
        """The answer in a sentence."""
        runs = sum(len(c.folders) for c in self.conditions)
        if self.keep is None:
            front = sum(c.on_front for c in self.conditions)
            return f"{front} of {len(self.conditions)} conditions ({runs} runs) are on the front"
        asked = _asked(self.keep)
        if self.best is None or self.best.accuracy is None or self.best.size is None:
            return f"No condition is {asked}"
        return (
            f"Smallest {asked}: {self.best.name}, {numbers.size(self.best.size.value)} "
            f"at {numbers.percent(self.best.accuracy.value)}"
        )


def compare(folders: Sequence[Path], *, keep: float | None = None, sort: str = "size") -> Comparison:
    """Puts runs side by side, with runs that differ only by their seed as one condition.

    Args:
        folders: run folders.
        keep: the accuracy a condition must keep, as in a goal: zero or negative is the allowed change
            against the dense model (-0.01 = one point), positive the accuracy itself as a fraction.
        sort: one of `SORTS`.

    Raises:
        DataError: a folder holds no run.
        UnknownName: there is no such order.
        UsageError: no folders, or `keep` is not a fraction.
    """
    if sort not in SORTS:
        raise unknown("order of a comparison", sort, dict(SORTS))
    if keep is not None and not -1 < keep < 1:
        raise UsageError(f"keep is a fraction in (-1, 1), such as -0.01 or 0.9; got {keep}")
    if not folders:
        raise UsageError("nothing to compare: name at least one run folder")
    runs = [RunView.read(Path(folder), details=False) for folder in dict.fromkeys(folders)]
    split = common_split(runs)
    groups: dict[str, list[RunView]] = {}
    for run in runs:
        groups.setdefault(_without_seed(run.recipe), []).append(run)
    conditions = [condition_of(group, split, keep) for group in groups.values()]
    marked = mark_front(conditions)
    ordered = sorted(marked, key=lambda c: _order(c, sort))
    able = [c for c in ordered if c.qualifies and c.size is not None]
    best = min(able, key=lambda c: (_mean(c.size), -(_mean(c.accuracy) or 0)), default=None)
    return Comparison(tuple(ordered), split, keep, best)


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which of these (accuracy, size) no other beats: none is as good in both and better in one.

    Equal points stand or fall together. O(n log n).

    Returns:
        the indices on the front, the smallest size first.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][1], -points[i][0]))
    standing: list[int] = []
    for index in order:
        if (
            not standing
            or points[index][0] > points[standing[-1]][0]
            or points[index] == points[standing[-1]]
        ):
            standing.append(index)
    return standing


def _asked(keep: float) -> str:
    if keep > 0:
        return f"with at least {numbers.percent(keep)}"
    return f"within {numbers.points(-keep).lstrip('+')} of dense" if keep < 0 else "as accurate as dense"


def common_split(runs: Iterable[RunView]) -> str:
    """The part of the data that every finished run has a final accuracy on, the test images if they do."""
    ended = [run for run in runs if run.finished]
    return next(
        (s for s in SPLITS if ended and all(r.final("accuracy", split=s) for r in ended)), "validation"
    )


def _without_seed(recipe: Mapping[str, Any]) -> str:
    """The recipe less its seed, and less the weights it began with, which each seed may have its own of."""
    rest = {key: value for key, value in recipe.items() if key != "seed"}
    if isinstance(model := rest.get("model"), Mapping):
        rest["model"] = {key: value for key, value in model.items() if key != "weights"}
    return json.dumps(rest, sort_keys=True, default=str)


def condition_of(runs: Sequence[RunView], split: str, keep: float | None = None) -> Condition:
    """Some runs as one condition, named after the first."""
    first = runs[0]
    dense = [found.value for run in runs if (found := run.dense("accuracy", split=split))]
    before = first.dense("size", format=first.size_format)
    floor = keep if keep is None or keep > 0 else (fmean(dense) + keep if dense else None)
    stands = [max((r.round for r in run.rounds if r.stands), default=None) for run in runs]
    statuses = dict.fromkeys(run.status for run in runs)
    return Condition(
        name=first.name,
        folders=tuple(run.path for run in runs),
        rate=first.cutting.get("rate"),
        lr_ratio=first.cutting.get("lr_ratio"),
        rounds=fmean(known) if (known := [s for s in stands if s is not None]) else None,
        hours=spread_over([Spread(run.seconds / 3600) for run in runs if run.seconds is not None]),
        accuracy=_accuracy(runs, split),
        size=_over(runs, "size", format=first.size_format),
        params=_over(runs, "params"),
        macs=_over(runs, "macs"),
        latency=_latency(runs),
        dense_size=None if before is None else before.value,
        status="finished" if set(statuses) == {"finished"} else ", ".join(statuses),
        floor=floor,
        zeros=_over(runs, "sparsity", of="weights"),
        runtime=next((m.conditions.get("runtime") for run in runs if (m := run.final("latency"))), None),
    )


def _accuracy(runs: Iterable[RunView], split: str) -> Spread | None:
    """A run that has not ended has only the validation accuracy of its rounds."""
    found = [run.final("accuracy", split=split) or run.final("accuracy", split="validation") for run in runs]
    return spread_over([Spread(m.value, m.low, m.high) for m in found if m is not None])


def _latency(runs: Sequence[RunView]) -> Spread | None:
    ways: list[dict[str, Any]] = [{"threads": 1}, {}]
    return next((found for way in ways if (found := _over(runs, "latency", **way)) is not None), None)


def _over(runs: Iterable[RunView], metric: str, **conditions: Any) -> Spread | None:
    found = [run.final(metric, **conditions) for run in runs]
    return spread_over([Spread(m.value, m.low, m.high) for m in found if m is not None])


def spread_over(values: Sequence[Spread]) -> Spread | None:
    """The mean of several, with their standard deviation; one alone as it is."""
    if len(values) < 2:
        return values[0] if values else None
    mean, deviation = fmean(v.value for v in values), stdev(v.value for v in values)
    return Spread(mean, mean - deviation, mean + deviation, len(values))


def _mean(spread: Spread | None) -> float | None:
    return None if spread is None else spread.value


def mark_front(conditions: Sequence[Condition]) -> list[Condition]:
    """The same, with those marked that no other beats in accuracy and size."""
    able = [
        (index, (c.accuracy.value, c.size.value))
        for index, c in enumerate(conditions)
        if c.finished and c.accuracy is not None and c.size is not None
    ]
    on_front = {able[position][0] for position in front([point for _, point in able])}
    return [replace(c, on_front=True) if i in on_front else c for i, c in enumerate(conditions)]


def _order(condition: Condition, sort: str) -> tuple[bool, float, str]:
    if sort == "name":
        return False, 0.0, condition.name
    value = _mean(getattr(condition, sort))
    return value is None, 0.0 if value is None else (-value if SORTS[sort] else value), condition.name
