"""What an inspection says in words and tables."""

from collections.abc import Callable, Iterable, Sequence

from kezuri.artifact.inspection import InspectedCoupling, Inspection, State
from kezuri.core.measurement import Measurement
from kezuri.report import numbers
from kezuri.report.grid import Cell, Column, Grid, printable
from kezuri.report.numbers import DASH

SHOWN = 6  # names in a line, of those that the table holds too


def couplings_table(inspection: Inspection) -> Grid:
    """One row for every coupling whose channels can go, in the order of execution."""
    held = [one for one in inspection.couplings if one.state != "blocked"]
    columns: list[tuple[Column, Callable[[InspectedCoupling], Cell]]] = [
        (Column("coupling", "coupling", align="left"), lambda one: Cell.word(one.name)),
        (Column("channels", "channels"), lambda one: Cell(width(one), one.width)),
        (Column("layers", "writers → readers", align="left", spare=1), _layers),
        (Column("readers", "read by", align="left", spare=4), _readers),
        (Column("state", "state", align="left"), lambda one: Cell(one.state, one.state)),
        (Column("params", "params", spare=3), lambda one: Cell(numbers.count(one.params), one.params)),
        (Column("macs", "MACs"), lambda one: Cell(numbers.count(one.macs), one.macs)),
        (Column("ms", "ms"), _time),
        (Column("range", "range of ms", align="left", spare=2), lambda one: Cell(spread(one.latency))),
    ]
    absent = set() if inspection.of("program") else {"state"}
    if inspection.latency is None:
        absent |= {"ms", "range"}
    shown = [(column, cell) for column, cell in columns if column.key not in absent]
    rows = tuple(tuple(cell(one) for _, cell in shown) for one in held)
    return Grid("", tuple(column for column, _ in shown), rows, tuple(_notes(inspection, held)))


def _notes(inspection: Inspection, held: Sequence[InspectedCoupling]) -> Iterable[str]:
    if held:
        costs = "params and MACs" if inspection.latency is None else "params, MACs and ms"
        yield f"{costs}: what the model loses with one channel"
    if any(one.channels != one.width for one in held):
        yield "N×M channels: they go by N, each of which is M wide in the first layer"
    if any(one.shared for one in held):
        yield "shared: several layers write the same channels, as residual sums and attention do"


def _layers(one: InspectedCoupling) -> Cell:
    return Cell(f"{len(one.writes)} → {len(one.reads)}{' shared' if one.shared else ''}")


def _readers(one: InspectedCoupling) -> Cell:
    names = [touch.layer for touch in one.reads]
    more = f" +{len(names) - 1}" if len(names) > 1 else ""
    return Cell.word(names[0] + more if names else "")


def _time(one: InspectedCoupling) -> Cell:
    return Cell(channel_time(one.latency), None if one.latency is None else one.latency.value)


def width(one: InspectedCoupling) -> str:
    """16 channels as `16`; 4 heads of 32 channels as `4×32`."""
    return f"{one.width:,}" if one.channels == one.width else f"{one.width:,}×{one.channels // one.width:,}"


def channel_time(found: Measurement | None) -> str:
    """Milliseconds of one channel, to a tenth of a microsecond, or finer below one."""
    return DASH if found is None else _fine(found.value)


def spread(found: Measurement | None) -> str:
    """From the lowest to the highest race."""
    if found is None or found.low is None or found.high is None:
        return ""
    return f"{_fine(found.low)} to {_fine(found.high)}"


def _fine(value: float) -> str:
    places = 4 if abs(value) >= 0.001 else 5
    return numbers.fixed(round(value, places) + 0.0, places)  # adding zero takes the sign from -0.0


def headline(inspection: Inspection) -> str:
    """How much of the model can go: 1,232 of 1,245 channels can go."""
    can = sum(one.channels for one in inspection.couplings if one.state != "blocked")
    return f"{can:,} of {can + _stuck(inspection):,} channels can go"


def _stuck(inspection: Inspection) -> int:
    """Channels that layers write and that must stay; those that are only read are no layer's to give."""
    return sum(one.channels for one in inspection.of("blocked") if one.writes)


def about(inspection: Inspection) -> str:
    """The model in one line."""
    parts = [
        f"images {'×'.join(map(str, inspection.image_shape))}",
        f"{len(inspection.layers):,} layers",
        f"{numbers.count(inspection.params)} parameters",
        f"{numbers.count(inspection.macs)} MACs",
    ]
    if inspection.latency is not None:
        parts.append(numbers.milliseconds(inspection.latency.value))
    return ", ".join(parts)


def blocked(inspection: Inspection) -> dict[str, tuple[InspectedCoupling, ...]]:
    """The couplings that must stay whole by reason, the reason that holds most channels first."""
    return _by_reason(inspection.of("blocked"))


def rewritten(inspection: Inspection) -> dict[str, tuple[InspectedCoupling, ...]]:
    """The couplings that only a rewritten program can lose channels of, by reason."""
    return _by_reason(inspection.of("program"))


def _by_reason(couplings: Iterable[InspectedCoupling]) -> dict[str, tuple[InspectedCoupling, ...]]:
    found: dict[str, list[InspectedCoupling]] = {}
    for one in couplings:
        found.setdefault(printable(one.reason or ""), []).append(one)
    ordered = sorted(found.items(), key=lambda entry: -sum(one.channels for one in entry[1]))
    return {reason: tuple(held) for reason, held in ordered}


def untimed(inspection: Inspection) -> dict[str, tuple[InspectedCoupling, ...]]:
    """The couplings that were to be timed and were not, by the reason."""
    found: dict[str, list[InspectedCoupling]] = {}
    for one in inspection.couplings:
        if one.untimed is not None:
            found.setdefault(printable(one.untimed), []).append(one)
    return {reason: tuple(held) for reason, held in found.items()}


def lines(inspection: Inspection) -> list[tuple[str, str]]:
    """What stands below the table: a heading, empty where the one above goes on, and a text."""
    said = [*_grouped("blocked", blocked(inspection)), *_grouped("program", rewritten(inspection), SHOWN)]
    if inspection.timed:
        said.append(("ms", inspection.timed))
    said += _grouped("no ms", untimed(inspection), SHOWN)
    return [*said, ("total", f"{headline(inspection)}: {_counted(inspection)}")]


def _grouped(
    heading: str, reasons: dict[str, tuple[InspectedCoupling, ...]], most: int | None = None
) -> Iterable[tuple[str, str]]:
    """A line a reason, with all that it holds for, or `most` of them where the table has them too."""
    for reason, held in reasons.items():
        names = [f"{printable(one.name)} ({width(one)})" for one in held]
        more = [f"and {len(names) - most} more"] if most is not None and len(names) > most else []
        yield heading, f"{reason}: {', '.join([*names[:most], *more])}"
        heading = ""


def _counted(inspection: Inspection) -> str:
    words: dict[State, str] = {
        "free": "free",
        "program": "free in a rewritten program only",
        "blocked": "blocked",
    }
    counts = [f"{len(held)} {words[state]}" for state in words if (held := inspection.of(state))]
    return f"{', '.join(counts)} couplings" if counts else "no couplings"
