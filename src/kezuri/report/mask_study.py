"""A study of mask searches, finished or not: accuracies by searcher, sparsity and draw, compared in pairs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kezuri.artifact.atomic import read_json
from kezuri.artifact.folder import MaskStudyFolder
from kezuri.core.errors import CorruptArtifact
from kezuri.report import numbers
from kezuri.report.compare import Spread, spread_over
from kezuri.report.grid import Cell, Column, Grid
from kezuri.report.numbers import DASH, MINUS, PLUS_MINUS
from kezuri.report.paired import Paired, paired
from kezuri.report.tables import spread_cell

BEFORE = "before"
"""The stage before any retraining; the others are named by the images of each class."""

REFERENCES = ("random", "magnitude")
"""What a search is held against: as many evaluations without a plan, and none at all."""


@dataclass(frozen=True)
class Outcome:
    """One search and what retraining made of its mask.

    Attributes:
        accuracy: on the images of the view's split, by stage; stages that are not done yet are missing.
        seen: accuracy on the images that the search looked at, as the search has it.
        sparsity: fraction of the weights that was asked to go.
        seconds: of the search alone.
    """

    searcher: str
    sparsity: float
    draw: int
    accuracy: Mapping[str, float]
    seen: float
    evaluations: int
    seconds: float


@dataclass(frozen=True)
class MaskStudyView:
    """What the folder of a study of mask searches says.

    Attributes:
        plan: what is studied, as plain data.
        split: the part of the data that accuracy is shown for.
        dense: accuracy of the model before anything was removed.
        outcomes: of the searches that ended.
        cells: how many searches there are to be.
        failed: what went wrong, a sentence a cell.
    """

    path: Path
    plan: Mapping[str, Any]
    split: str
    dense: float
    outcomes: tuple[Outcome, ...]
    cells: int
    failed: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> "MaskStudyView":
        """The study in a folder.

        Raises:
            DataError: the folder holds no study of mask searches.
            CorruptArtifact: a file of it cannot be read.
        """
        folder = MaskStudyFolder(path)
        content = read_json(folder.record)
        try:
            found = [_outcome(folder, entry) for entry in content["cells"]]
            return cls(
                path=path,
                plan=content["plan"],
                split=content["split"],
                dense=content["dense"],
                outcomes=tuple(one for one in found if one is not None),
                cells=len(found),
                failed=tuple(_failure(entry) for entry in content["cells"] if entry["reason"]),
            )
        except (KeyError, TypeError) as error:
            raise CorruptArtifact(f"{folder.record} does not hold a study of masks: {error!r}") from error

    @property
    def stages(self) -> tuple[str, ...]:
        """`before`, then the images of each class that were retrained with, as planned."""
        return BEFORE, *self.plan["per_class"]

    @property
    def sparsities(self) -> tuple[float, ...]:
        """As planned, the lowest first."""
        return tuple(sorted(self.plan["sparsities"]))

    @property
    def searchers(self) -> tuple[str, ...]:
        """As planned."""
        return tuple(self.plan["searchers"])

    @property
    def references(self) -> tuple[str, ...]:
        """Those of them that others are held against: the first of each kind."""
        uses = {name: settings["use"] for name, settings in self.plan["searchers"].items()}
        found = (next((name for name in uses if uses[name] == use), None) for use in REFERENCES)
        return tuple(name for name in found if name is not None)

    @property
    def contenders(self) -> tuple[str, ...]:
        """All the others."""
        return tuple(name for name in self.searchers if name not in self.references)

    def of(self, searcher: str, sparsity: float) -> list[Outcome]:
        """The searches of one kind that ended, by draw."""
        found = [one for one in self.outcomes if (one.searcher, one.sparsity) == (searcher, sparsity)]
        return sorted(found, key=lambda one: one.draw)

    def accuracies(self, searcher: str, sparsity: float, stage: str) -> dict[int, float]:
        """Accuracy by draw, where the stage is done."""
        found = self.of(searcher, sparsity)
        return {one.draw: one.accuracy[stage] for one in found if stage in one.accuracy}

    def compared(self, searcher: str, reference: str, sparsity: float, stage: str) -> Paired | None:
        """One searcher against another over the draws that both have; None where there is none."""
        first, second = (self.accuracies(name, sparsity, stage) for name in (searcher, reference))
        common = sorted(first.keys() & second.keys())
        return paired([first[draw] - second[draw] for draw in common]) if common else None


def _outcome(folder: MaskStudyFolder, entry: Mapping[str, Any]) -> Outcome | None:
    """What the files of a cell say; None before its search ended."""
    cell = folder.cell(entry["folder"])
    if not cell.search.is_file():
        return None
    search = read_json(cell.search)
    accuracy = {BEFORE: search["accuracy"]}
    for stage, name in entry["retrained"].items():
        if cell.retrained(name).is_file():
            accuracy[stage] = read_json(cell.retrained(name))["accuracy"]
    return Outcome(
        searcher=entry["searcher"],
        sparsity=entry["sparsity"],
        draw=entry["draw"],
        accuracy=accuracy,
        seen=search["fitness"]["accuracy"],
        evaluations=search["evaluations"],
        seconds=search["seconds"],
    )


def _failure(entry: Mapping[str, Any]) -> str:
    place = f"{entry['searcher']} at {share(entry['sparsity'])}, draw {entry['draw']}"
    return f"{place}: {entry['reason']}"


def share(sparsity: float) -> str:
    """A sparsity for people: 90 %."""
    return f"{sparsity * 100:g} %"


def stage_words(stage: str) -> str:
    """A stage in a sentence."""
    if stage == BEFORE:
        return "before retraining"
    return f"after retraining with {images_words([stage])}"


def stage_header(stage: str) -> str:
    """A stage above a column."""
    return BEFORE if stage == BEFORE else images_words([stage])


def images_words(stages: Sequence[str]) -> str:
    """With how many images it was retrained, at one stage or at several."""
    if list(stages) == ["all"]:
        return "all images"
    return f"{', '.join(stages)} image{'' if list(stages) == ['1'] else 's'} a class"


def searches_table(study: MaskStudyView) -> Grid:
    """Every searcher at every sparsity: accuracy before and after retraining, over the draws."""
    columns = (
        Column("sparsity", "removed"),
        Column("searcher", "searcher", align="left"),
        *(Column(f"accuracy_{stage}", f"{stage_header(stage)}, %") for stage in study.stages),
        Column("seen", "seen by the search, %", spare=3),
        Column("evaluations", "evaluations", spare=2),
        Column("seconds", "seconds", spare=1),
        Column("draws", "draws", spare=4),
    )
    kinds = [(searcher, sparsity) for sparsity in study.sparsities for searcher in study.searchers]
    rows = tuple(_search_cells(study, *kind) for kind in kinds)
    spread = f"{PLUS_MINUS}: one standard deviation over draws, each of which has its own search and images"
    notes = (
        f"accuracy on the {study.split} images, dense {numbers.percent(study.dense)}; {spread}",
        "seen by the search: on the training images it looked at; evaluations, seconds: of the search, mean",
    )
    return Grid("", columns, rows, notes)


def _search_cells(study: MaskStudyView, searcher: str, sparsity: float) -> tuple[Cell, ...]:
    found = study.of(searcher, sparsity)
    accuracies = [study.accuracies(searcher, sparsity, stage).values() for stage in study.stages]
    seconds = _over([one.seconds for one in found])
    evaluations = _over([one.evaluations for one in found])
    return (
        Cell(share(sparsity), sparsity),
        Cell.word(searcher),
        *(spread_cell(_over(list(values)), times=100, places=2) for values in accuracies),
        spread_cell(_over([one.seen for one in found]), times=100, places=2),
        Cell(DASH) if evaluations is None else Cell(numbers.count(evaluations.value), evaluations.value),
        Cell(DASH) if seconds is None else Cell(numbers.significant(seconds.value), seconds.value),
        Cell(str(len(found)), len(found)),
    )


def _over(values: Sequence[float]) -> Spread | None:
    return spread_over([Spread(value) for value in values])


@dataclass(frozen=True)
class Difference:
    """One searcher against one reference, at one sparsity and stage."""

    sparsity: float
    stage: str
    searcher: str
    reference: str
    found: Paired


def differences(study: MaskStudyView) -> Iterator[Difference]:
    """Every searcher against random search, and against magnitude, where both have done the same draws."""
    for number, reference in enumerate(study.references, start=1):
        held = study.references[:number]
        for stage in study.stages:
            for sparsity in study.sparsities:
                for searcher in (name for name in study.searchers if name not in held):
                    found = study.compared(searcher, reference, sparsity, stage)
                    if found is not None:
                        yield Difference(sparsity, stage, searcher, reference, found)


def differences_table(study: MaskStudyView) -> Grid:
    """How far searchers are ahead of random search and of magnitude on the same draws."""
    columns = (
        Column("searcher", "searcher", align="left"),
        Column("reference", "against", align="left"),
        Column("stage", "when", align="left"),
        Column("sparsity", "removed"),
        Column("difference", "points"),
        Column("low", "95 % interval"),
        Column("greater", "p, one-sided"),
        Column("different", "p, two-sided"),
        Column("draws", "draws"),
    )
    rows = tuple(
        (
            Cell.word(one.searcher),
            Cell.word(one.reference),
            Cell(stage_words(one.stage), one.stage),
            Cell(share(one.sparsity), one.sparsity),
            Cell(signed(one.found.mean), one.found.mean),
            Cell(_interval(one.found), one.found.low),
            Cell(numbers.significant(one.found.greater, 2), one.found.greater),
            Cell(numbers.significant(one.found.different, 2), one.found.different),
            Cell(str(one.found.pairs), one.found.pairs),
        )
        for one in differences(study)
    )
    notes = (
        "points of accuracy, searcher less reference on the same draw; interval: Student's t; p: sign-flip "
        "test of the mean, one-sided against a searcher that is no better, two-sided against an equal one",
        "each p-value is of one comparison: of twenty among equals, one falls below 0.05 by chance",
    )
    return Grid("", columns, rows, notes)


def signed(difference: float) -> str:
    """A difference of fractions in points with its sign, without the word."""
    rounded = round(difference * 100, 2)
    return "0.00" if rounded == 0 else f"{rounded:+.2f}".replace("-", MINUS)


def _interval(found: Paired) -> str:
    if found.low is None or found.high is None:
        return DASH
    return f"{signed(found.low)} … {signed(found.high)}"
