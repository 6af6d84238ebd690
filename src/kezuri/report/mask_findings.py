"""Whether searches for masks were worth it, in plain words: before retraining and after."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kezuri.report import numbers
from kezuri.report.grid import Cell, Column, Grid
from kezuri.report.mask_study import BEFORE, MaskStudyView, images_words, share, signed, stage_words
from kezuri.report.paired import Paired

LEVEL = 0.05
"""A difference counts when chance does as much less often than this, two-sided."""

FEWEST = 6
"""Draws below which the sign-flip test cannot fall under that level: 2 of 2^5 ways are 0.0625."""


@dataclass(frozen=True)
class Worth:
    """One searcher at one stage.

    Attributes:
        cases: sparsities at which it was compared with enough draws.
        paid: those of them at which it beats every reference.
        verdict: in a few words.
        numbers: what that rests on.
    """

    searcher: str
    stage: str
    cases: tuple[float, ...]
    paid: tuple[float, ...]
    verdict: str
    numbers: str


def worths(study: MaskStudyView) -> list[Worth]:
    """Every searcher that is no reference, at every stage."""
    return [
        _worth(study, searcher, stage)
        for stage in study.stages
        for searcher in study.contenders
        if study.references
    ]


def headline(study: MaskStudyView) -> str:
    """What the study says, in a sentence."""
    found = {stage: [one for one in worths(study) if one.stage == stage] for stage in study.stages}
    cases = {stage: sum(len(one.cases) for one in searchers) for stage, searchers in found.items()}
    told = {stage: sum(len(one.paid) for one in found[stage]) for stage, many in cases.items() if many}
    parts = [f"{told[BEFORE]} of {cases[BEFORE]} times before retraining"] if BEFORE in told else []
    after = [stage for stage in told if stage != BEFORE]
    for many in dict.fromkeys(cases[stage] for stage in after):
        alike = [stage for stage in after if cases[stage] == many]
        paid = ", ".join(str(told[stage]) for stage in alike)
        parts.append(f"{paid} of {many} times after it with {images_words(alike)}")
    if not parts:
        done = f"{len(study.outcomes)} of {study.cells} searches are done"
        return f"{done}; {FEWEST} draws of a searcher and a reference tell whether it was worth it"
    return f"Searching was worth it {', '.join(parts)}"


def worth_table(study: MaskStudyView) -> Grid:
    """The verdicts as a table."""
    columns = (
        Column("searcher", "searcher", align="left"),
        Column("stage", "when", align="left"),
        Column("verdict", "verdict", align="left"),
        Column("numbers", "points ahead on the same draws", align="left"),
    )
    rows = tuple(
        (
            Cell.word(one.searcher),
            Cell(stage_words(one.stage), one.stage),
            Cell.word(one.verdict),
            Cell.word(one.numbers),
        )
        for one in worths(study)
    )
    held = " and than ".join(study.references)
    note = (
        f"worth it: more accurate on the {study.split} images than {held}, with a two-sided p below "
        f"{LEVEL:g} (sign flips over draws; it takes {FEWEST} draws)"
    )
    return Grid("", columns, rows, (note,) if rows else ())


def _worth(study: MaskStudyView, searcher: str, stage: str) -> Worth:
    found = {
        sparsity: [study.compared(searcher, reference, sparsity, stage) for reference in study.references]
        for sparsity in study.sparsities
    }
    cases = tuple(sparsity for sparsity, all_ in found.items() if all(map(_tells, all_)))
    paid = tuple(sparsity for sparsity in cases if all(map(_ahead, found[sparsity])))
    return Worth(
        searcher, stage, cases, paid, _verdict(cases, paid), "; ".join(_told(study, searcher, stage))
    )


def _tells(found: Paired | None) -> bool:
    return found is not None and found.pairs >= FEWEST


def _ahead(found: Paired | None) -> bool:
    return found is not None and found.mean > 0 and found.different < LEVEL


def _verdict(cases: Sequence[float], paid: Sequence[float]) -> str:
    if not cases:
        return "too few draws"
    if not paid:
        return "no gain shown"
    return "worth it" if len(paid) == len(cases) else f"worth it at {', '.join(map(share, paid))}"


def _told(study: MaskStudyView, searcher: str, stage: str) -> Iterator[str]:
    """Against each reference, the differences from the lowest sparsity to the highest."""
    for reference in study.references:
        found = {
            sparsity: one
            for sparsity in study.sparsities
            if (one := study.compared(searcher, reference, sparsity, stage)) is not None
        }
        if found:
            listed = ", ".join(f"{signed(one.mean)} at {share(sparsity)}" for sparsity, one in found.items())
            highest = max(one.different for one in found.values())
            chance = f"p {'≤ ' if len(found) > 1 else ''}{numbers.significant(highest, 2)}"
            yield f"against {reference} {listed} ({chance})"
