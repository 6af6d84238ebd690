"""The tables of a run's layers, bits and decisions."""

from kezuri.report import numbers
from kezuri.report.grid import Cell, Column, Grid
from kezuri.report.numbers import DASH
from kezuri.report.reading import RunView


def layers_table(run: RunView) -> Grid:
    """Every layer with its channels and what became of it."""
    columns = (
        Column("layer", "layer", align="left"),
        Column("before", "channels before"),
        Column("after", "after"),
        Column("state", "state", align="left"),
        Column("reason", "reason", align="left"),
    )
    rows = [
        (
            Cell.word(layer.name),
            Cell(numbers.count(layer.before), layer.before),
            Cell(numbers.count(layer.after), layer.after),
            Cell.word(layer.state),
            Cell.word(layer.reason) if layer.reason else Cell(""),
        )
        for layer in run.layers
    ]
    return Grid("", columns, tuple(rows))


def bits_table(run: RunView) -> Grid:
    """What was chosen for each layer under a budget."""
    columns = (
        Column("layer", "layer", align="left"),
        Column("bits", "bits"),
        Column("sparsity", "sparsity"),
    )
    rows = [
        (
            Cell.word(layer),
            Cell(numbers.count(option["bits"]), option["bits"]),
            Cell(numbers.percent(option["sparsity"]), option["sparsity"]),
        )
        for layer, option in run.allocation["chosen"]["options"].items()
    ]
    return Grid("", columns, tuple(rows))


def kernels_table(run: RunView) -> Grid:
    """What the time of a file of integers goes to in its runtime, what takes most first."""
    columns = (
        Column("kernel", "kernel", align="left"),
        Column("group", "computes in", align="left"),
        Column("kernels", "how many"),
        Column("share", "of the time"),
    )
    rows = [
        (
            Cell.word(row.conditions["kernel"]),
            Cell.word(row.conditions["group"]),
            Cell(numbers.count(row.conditions["kernels"]), row.conditions["kernels"]),
            Cell(numbers.percent(row.value), row.value),
        )
        for row in run.measurements
        if row.metric == "time_share"
    ]
    return Grid("", columns, tuple(rows))


def decisions_table(run: RunView) -> Grid:
    """What the loop decided after every attempt, and why."""
    columns = (
        Column("round", "round"),
        Column("attempt", "attempt"),
        Column("verdict", "verdict", align="left"),
        Column("why", "why", align="left"),
    )
    rows = [
        (
            Cell.word(entry.get("round")),
            Cell(str(attempt + 1) if isinstance(attempt := entry.get("attempt"), int) else DASH, attempt),
            Cell.word(entry.get("verdict")),
            Cell.word(entry.get("why")),
        )
        for entry in run.decisions
    ]
    return Grid("", columns, tuple(rows))
