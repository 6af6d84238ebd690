"""What a study says about the usual claims: each is looked up in the measured rows, and told either way."""

from collections.abc import Callable
from dataclasses import dataclass
from math import hypot
from typing import Literal

from kezuri.report import numbers
from kezuri.report.compare import Spread
from kezuri.report.grid import Cell, Column, Grid
from kezuri.report.study import BASE, Row, StudyView

Verdict = Literal["holds", "does not hold", "undecided", "not measured yet", "not measured"]
UNTOLD = ("not measured yet", "not measured")

QUARTER = (0.20, 0.30)
"""What counts as about a quarter."""

LOST = 0.01
"""Accuracy that may go before it counts as lost, as the floor of a recipe by default."""

SMALLER = 0.98
"""A file below this share of another is smaller."""


@dataclass(frozen=True)
class Finding:
    """A claim, what the study says about it, and the numbers that it rests on."""

    claim: str
    verdict: Verdict
    numbers: str


def findings(study: StudyView) -> list[Finding]:
    """The claims one by one, in order."""
    made: tuple[Callable[[StudyView], Finding], ...] = (_quarter, _assistant, _convolutions, _chain)
    return [find(study) for find in made]


def headline(study: StudyView) -> str:
    """What the study says, in a sentence."""
    if study.unfinished:
        return f"{study.done} of {study.asked} runs are done"
    told = [one for one in findings(study) if one.verdict not in UNTOLD]
    if len(told) > 1:
        held = sum(one.verdict == "holds" for one in told)
        return f"{held} of {len(told)} claims {'holds' if held == 1 else 'hold'} on {study.plan['data']}"
    return best_words(study, "size") or f"Nothing was measured on {study.plan['data']}"


def best_words(study: StudyView, cost: Literal["size", "latency"]) -> str:
    """Which row is the smallest, or the fastest, of those that lose little; empty where none is known."""
    best, reference = _smallest(study) if cost == "size" else _fastest(study), study.reference
    if best is None or reference is None:
        return ""
    spent = best.of(cost)
    amount = (numbers.size if cost == "size" else numbers.milliseconds)(spent.value if spent else None)
    which = "Smallest" if cost == "size" else "Fastest"
    against = f"{which} that loses at most {_points(LOST)} against {reference.name}"
    return f"{against}: {best.name}, {amount} at {_change(best, reference)}"


def findings_table(study: StudyView) -> Grid:
    """The claims as a table."""
    columns = (
        Column("claim", "claim", align="left"),
        Column("verdict", "verdict", align="left"),
        Column("numbers", "measured", align="left"),
    )
    found = findings(study)
    rows = tuple((Cell.word(one.claim), Cell.word(one.verdict), Cell.word(one.numbers)) for one in found)
    note = (
        "Accuracies count as different when they are further apart than one standard deviation of their "
        "difference over the seeds (of a single seed: than the 95 % interval)."
    )
    return Grid("", columns, rows, (note,))


def _quarter(study: StudyView) -> Finding:
    claim = "8 bits take about a quarter of the size"
    base, found = study.row(BASE), [row for name in ("ptq", "qat") if (row := study.row(name))]
    if base is None or not found:
        return _unmeasured(study, claim, ("ptq", "qat"), f"needs the rows {BASE} and ptq or qat")
    shares = [_size(row) / _size(base) for row in found]
    told = ", ".join(
        f"{row.name} {numbers.percent(share, 1)} of {numbers.size(_size(base))} at {_change(row, base)}"
        for row, share in zip(found, shares, strict=True)
    )
    about = all(QUARTER[0] <= share <= QUARTER[1] for share in shares)
    return Finding(claim, "holds" if about else "does not hold", told)


def _assistant(study: StudyView) -> Finding:
    claim = "an assistant helps where the teacher is far larger than the student"
    rows = [study.row(name) for name in ("distilled-assistant", "distilled", BASE, "teacher")]
    assisted, taught, base, teacher = rows
    if assisted is None or taught is None or base is None or teacher is None:
        return _unmeasured(study, claim, ("distill", "assistant"), "needs the methods distill and assistant")
    longer, alone = study.row("distilled-assistant-longer"), study.row("student-longer")
    parts = [
        f"gap: the teacher has {numbers.times(_ratio(teacher, base, 'macs'))} the MACs, "
        f"{numbers.times(_ratio(teacher, base, 'params'))} the parameters and {_change(teacher, base)}",
        *(
            f"{row.name} {_accuracy(row)} in {numbers.setting(row.epochs)} epochs"
            for row in (longer, assisted, taught, alone)
            if row is not None
        ),
    ]
    # the claim is about students that are taught equally long; the assistant's own epochs come on top
    verdict = {1: "holds", 0: "undecided", -1: "does not hold"}[_compare(longer or assisted, taught)]
    return Finding(claim, verdict, "; ".join(parts))  # type: ignore[arg-type]


def _convolutions(study: StudyView) -> Finding:
    claim = "cutting channels of convolutions layer by layer beats cutting those of dense layers"
    conv, dense = (study.row(f"prune-local-structured-{kind}") for kind in ("conv", "dense"))
    if conv is None or dense is None:
        return _unmeasured(study, claim, ("prune",), "needs both rows prune-local-structured-…")
    better, share = _compare(conv, dense), _size(conv) / _size(dense)
    smaller = 1 if share < SMALLER else -1 if share > 1 / SMALLER else 0
    told = ", ".join(f"{row.name} {_accuracy(row)} at {numbers.size(_size(row))}" for row in (conv, dense))
    score = (better > 0 or smaller > 0) - (better < 0 or smaller < 0)
    verdict: Verdict = "holds" if score > 0 else "does not hold" if score < 0 else "undecided"
    return Finding(claim, verdict, told)


def _chain(study: StudyView) -> Finding:
    claim = "a chain of all three compresses most without losing accuracy"
    base, reference, smallest = study.row(BASE), study.reference, _smallest(study)
    chains = [row for row in study.rows if row.method == "chain" and row.condition is not None]
    if base is None or reference is None or not chains:
        return _unmeasured(study, claim, ("chain",), "needs the method chain")
    able, keeping = _able(study), _keeping(study)
    first = study.row("distill-prune-quantize") or chains[0]
    told = f"{len(keeping)} of {len(able)} rows lose at most {_points(LOST)} against {reference.name}"
    if smallest is not None:
        told += f"; the smallest of them is {smallest.name}, {_against(smallest, base, reference)}"
    named = [max(chains, key=_mean), first]
    for row in dict.fromkeys(one.name for one in named if smallest is None or one.name != smallest.name):
        chain = study.row(row)
        assert chain is not None
        told += f"; {row} is {_against(chain, base, reference)}"
    return Finding(claim, "holds" if smallest in chains else "does not hold", told)


def _against(row: Row, base: Row, reference: Row) -> str:
    """How much smaller than the student, and how accurate beside it and beside the one trained for longer."""
    smaller = numbers.change(_size(base) / _size(row), "smaller").replace("the same", "as large")
    against = f"{smaller} at {_change(row, reference)}"
    return against if reference is base else f"{against} ({_change(row, base)} against {BASE})"


def _able(study: StudyView) -> list[Row]:
    return [row for row in study.rows if row.condition is not None and row.method != "teacher"]


def _keeping(study: StudyView) -> list[Row]:
    """The rows that lose no more than may go, against the student trained for longer."""
    reference = study.reference
    return [] if reference is None else [row for row in _able(study) if _mean(row) >= _mean(reference) - LOST]


def _smallest(study: StudyView) -> Row | None:
    """The smallest of those; of those that are equally small, the most accurate."""
    keeping = _keeping(study)
    least = min(map(_size, keeping), default=0.0)
    return max((row for row in keeping if _size(row) * SMALLER <= least), key=_mean, default=None)


def _fastest(study: StudyView) -> Row | None:
    timed = {row.name: ms.value for row in _keeping(study) if (ms := row.of("latency")) is not None}
    return study.row(min(timed, key=lambda name: timed[name])) if timed else None


def _unmeasured(study: StudyView, claim: str, methods: tuple[str, ...], needs: str) -> Finding:
    if study.unfinished and study.asks_for(*methods):
        return Finding(claim, "not measured yet", f"{study.done} of {study.asked} runs are done")
    return Finding(claim, "not measured", needs)


def _points(amount: float) -> str:
    return numbers.points(amount).lstrip("+")


def _compare(one: Row, other: Row) -> int:
    """1 if the first is more accurate beyond the spread, -1 if less, else 0."""
    first, second = _right(one), _right(other)
    apart, spread = first.value - second.value, hypot(_deviation(first), _deviation(second))
    return 0 if abs(apart) <= spread else 1 if apart > 0 else -1


def _deviation(spread: Spread) -> float:
    return 0.0 if spread.low is None or spread.high is None else (spread.high - spread.low) / 2


def _right(row: Row) -> Spread:
    assert row.condition is not None and row.condition.accuracy is not None
    return row.condition.accuracy


def _mean(row: Row) -> float:
    return _right(row).value


def _size(row: Row) -> float:
    assert row.condition is not None and row.condition.size is not None
    return row.condition.size.value


def _ratio(one: Row, other: Row, metric: Literal["macs", "params"]) -> float | None:
    first, second = (getattr(row.condition, metric) for row in (one, other))
    return first.value / second.value if first and second and second.value else None


def _accuracy(row: Row) -> str:
    right = _right(row)
    around = "" if right.deviation is None else f" {numbers.PLUS_MINUS} {right.deviation * 100:.2f}"
    return f"{right.value * 100:.2f}{around} %"


def _change(row: Row, base: Row) -> str:
    return numbers.points(_mean(row) - _mean(base))
