"""The tables of a study: one for people, one with every value for programs, and what was not done."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kezuri.report import numbers
from kezuri.report.compare import Condition, Spread
from kezuri.report.grid import Cell, Column, Grid
from kezuri.report.numbers import DASH, PLUS_MINUS
from kezuri.report.study import BASE, Metric, Row, StudyView
from kezuri.report.tables import FRONT, spread_cell


def study_table(study: StudyView) -> Grid:
    """Every row with its measurements, for people; refused ones too."""
    base, reference = (row.condition if row else None for row in (study.row(BASE), study.reference))
    unit, scale = numbers.size_unit(sizes_of(study))
    other = reference is not None and base is not None and reference is not base
    columns = (
        Column("name", "", align="left"),
        Column("epochs", "epochs", spare=4),
        Column("accuracy", f"accuracy, {study.split} %"),
        Column("change", "points"),
        *([Column("change_student", f"vs {BASE}", spare=2)] if other else []),
        Column("size", f"ONNX {unit}"),
        Column("smaller", "smaller", spare=3),
        Column("efficiency", "%/MB", spare=1),
        Column("zeros", "zeros %", spare=5),
        Column("latency", "latency ms"),
        Column("params", "params", spare=6),
        Column("runs", "runs", spare=7),
        Column("status", "status", align="left"),
        Column("front", "front", align="left"),
    )

    def cells(row: Row) -> tuple[Cell, ...]:
        c = row.condition
        front = Cell(FRONT, "front") if c is not None and c.on_front else Cell("")
        ratio = _ratio(base, c)
        return (
            Cell.word(row.name),
            Cell(numbers.setting(row.epochs), row.epochs),
            spread_cell(row.of("accuracy"), times=100, places=2),
            _points(reference, c),
            *([_points(base, c)] if other else []),
            spread_cell(row.of("size"), times=1 / scale),
            Cell(numbers.times(ratio), ratio),
            spread_cell(row.efficiency),
            spread_cell(row.of("zeros"), times=100, places=1),
            spread_cell(row.of("latency")),
            Cell(numbers.count(_value(row.of("params")))),
            Cell(str(len(c.folders)) if c else DASH),
            Cell.word(row.status),
            front,
        )

    return Grid("", columns, tuple(map(cells, study.rows)), tuple(_notes(study)))


def sizes_of(study: StudyView) -> list[float]:
    """The sizes that decide about the unit: the student's and what is made of it, not the teacher's."""
    found = [row.of("size") for row in study.rows if row.method != "teacher"]
    return [size.value for size in found if size is not None]


def _notes(study: StudyView) -> Iterator[str]:
    reference = study.reference
    against = BASE if reference is None else reference.name
    seeds = sorted({seed for row in study.rows for seed in row.seeds})
    yield (
        f"points: against {against}; smaller: against {BASE}; %/MB: accuracy for each megabyte of ONNX; "
        "latency: ONNX Runtime, one thread, one image"
    )
    yield (
        f"epochs: of the model and its assistant, without the teacher's; {PLUS_MINUS}: one standard "
        f"deviation over the seeds; front: {FRONT} no other is smaller and as accurate"
    )
    if study.unfinished and seeds:
        yield f"not finished: only what every row has counts so far, seed{_spell(seeds)}"
    for kind in ("conv", "dense"):
        one, other = (study.row(f"prune-{scope}-structured-{kind}") for scope in ("global", "local"))
        if one is not None and other is not None and _coincide(one, other):
            layers = "convolution" if kind == "conv" else "dense layer"
            yield f"{one.name} and {other.name} are the same cuts: one {layers} alone may lose channels"


def _spell(seeds: Sequence[int]) -> str:
    return f" {seeds[0]}" if len(seeds) == 1 else f"s {', '.join(map(str, seeds))}"


def _coincide(one: Row, other: Row) -> bool:
    """Whether two rows are the same models."""
    names: tuple[Metric, ...] = ("accuracy", "size", "params")
    return all(_value(one.of(name)) == _value(other.of(name)) for name in names)


def _value(spread: Spread | None) -> float | None:
    return None if spread is None else spread.value


def _ratio(base: Condition | None, c: Condition | None) -> float | None:
    return base.size.value / c.size.value if base and base.size and c and c.size else None


def _difference(base: Condition | None, c: Condition | None) -> float | None:
    return c.accuracy.value - base.accuracy.value if c and c.accuracy and base and base.accuracy else None


def _points(base: Condition | None, c: Condition | None) -> Cell:
    change = _difference(base, c)
    shown = DASH if change is None else f"{change * 100:+.2f}".replace("-", numbers.MINUS)
    return Cell(shown, change)


def study_data(study: StudyView) -> Grid:
    """Every row with every value, as raw numbers under keys: what `table.csv` and `table.json` hold.

    Spreads (`…_sd`) are one standard deviation over the seeds; `change` is against the student trained for
    longer, where there is one, `change_student` against the student.
    """
    base, reference = (row.condition if row else None for row in (study.row(BASE), study.reference))
    values: dict[str, Callable[[Row], Any]] = {
        "name": lambda row: row.name,
        "method": lambda row: row.method,
        "epochs": lambda row: row.epochs,
        "seeds": lambda row: " ".join(map(str, row.seeds)),
        **_spread("accuracy", lambda row: row.of("accuracy")),
        "change": lambda row: _difference(reference, row.condition),
        "change_student": lambda row: _difference(base, row.condition),
        **_spread("size", lambda row: row.of("size")),
        **_spread("packed", lambda row: row.packed),
        "smaller": lambda row: _ratio(base, row.condition),
        **_spread("efficiency", lambda row: row.efficiency),
        **_spread("latency", lambda row: row.of("latency")),
        **_spread("zeros", lambda row: row.of("zeros")),
        **_spread("params", lambda row: row.of("params")),
        **_spread("macs", lambda row: row.of("macs")),
        "runs": lambda row: len(row.seeds),
        "status": lambda row: row.status,
        "front": lambda row: "front" if row.condition is not None and row.condition.on_front else None,
    }
    rows = tuple(tuple(Cell("", read(row)) for read in values.values()) for row in study.rows)
    return Grid("", tuple(Column(key, key) for key in values), rows)


def _spread(name: str, read: Callable[[Row], Spread | None]) -> dict[str, Callable[[Row], Any]]:
    """A mean and its standard deviation over the seeds."""

    def deviation(row: Row) -> float | None:
        spread = read(row)
        return None if spread is None else spread.deviation

    return {name: lambda row: _value(read(row)), f"{name}_sd": deviation}


def refusals_table(study: StudyView) -> Grid:
    """What was not done, with the reason."""
    columns = (
        Column("name", "not done", align="left"),
        Column("status", "status", align="left"),
        Column("reason", "reason", align="left"),
    )
    missing = [row for row in study.rows if row.reason]
    rows = tuple((Cell.word(row.name), Cell.word(row.status), Cell.word(row.reason)) for row in missing)
    return Grid("", columns, rows)
