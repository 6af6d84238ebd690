"""How much each layer suffers from fewer bits and more zeros: a table, measured once and kept."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from kezuri.artifact.atomic import read_json, write_json
from kezuri.core.errors import CorruptArtifact, UsageError
from kezuri.core.progress import NullProgress, Progress

Metric = Literal["size", "macs", "latency"]
"""What a budget may be on: bytes, multiply-accumulates, milliseconds."""

FORMAT = "kezuri sensitivity 1"
JOURNAL = "kezuri sensitivity journal 1"
FLOATS = 32
BITS = (*range(2, 9), 16, FLOATS)
SAME = 1e-4  # of two losses of one model, measured under other conditions


@dataclass(frozen=True, order=True)
class Option:
    """What may be done to a layer.

    Attributes:
        bits: of its numbers: 2 to 8, 16, or 32 for as they are.
        sparsity: fraction of its weights removed, [0, 1).
    """

    bits: int = FLOATS
    sparsity: float = 0.0

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise UsageError(f"bits is one of {', '.join(map(str, BITS))}; got {self.bits}")
        if not 0 <= self.sparsity < 1:
            raise UsageError(f"sparsity is a fraction in [0, 1), got {self.sparsity}")

    def __str__(self) -> str:
        return f"{self.bits} bits" + (f", {self.sparsity:.0%} sparse" if self.sparsity else "")


UNTOUCHED = Option()
INTEGERS = Option(8)


@dataclass(frozen=True)
class Cost:
    """What a layer costs.

    Attributes:
        size: bytes in the file.
        macs: multiply-accumulates for one image.
        latency: milliseconds, as measured; None where it was not.
    """

    size: float = 0.0
    macs: float = 0.0
    latency: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not 0 <= value < math.inf:
                raise UsageError(f"{name} must be 0 or more and finite, got {value}")

    def of(self, metric: Metric) -> float | None:
        """The value of one metric."""
        value: float | None = getattr(self, check_metric(metric))
        return value

    @staticmethod
    def total(costs: Iterable["Cost"]) -> "Cost":
        """The sum, added in this order; its latency is None where any of them is unknown."""
        size, macs, latency = 0.0, 0.0, 0.0
        known = True
        for cost in costs:
            size, macs = size + cost.size, macs + cost.macs
            known = known and cost.latency is not None
            latency += cost.latency or 0.0
        return Cost(size, macs, latency if known else None)


NOTHING = Cost(latency=0.0)


@dataclass(frozen=True)
class Entry:
    """One option of one layer.

    Attributes:
        option: what is done to the layer, and to no other.
        loss: by how much the calibration loss grows, in nats; inf where it stopped being finite.
        cost: what the layer costs then.
    """

    option: Option
    loss: float
    cost: Cost

    def __post_init__(self) -> None:
        if math.isnan(self.loss) or self.loss == -math.inf:
            raise UsageError(f"the loss of {self.option} must be a number, or inf, got {self.loss}")


@dataclass(frozen=True)
class SensitivityTable:
    """Every option of every layer, with what it loses and what it costs.

    Attributes:
        layers: the entries of each layer, by its name, in the model's order.
        base_loss: calibration loss of the untouched model, in nats.
        fixed: what everything costs that has no options; part of every budget.
        about: what it was measured on, as plain data.
    """

    layers: Mapping[str, tuple[Entry, ...]]
    base_loss: float = 0.0
    fixed: Cost = NOTHING
    about: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if not self.layers:
            raise UsageError("a sensitivity table needs at least one layer")
        for layer, entries in self.layers.items():
            if not any(math.isfinite(entry.loss) for entry in entries):
                raise UsageError(f"{layer} has no option with a finite loss")
            options = [entry.option for entry in entries]
            if len(set(options)) < len(options):
                raise UsageError(f"an option of {layer} is there twice: {', '.join(map(str, options))}")

    def entry(self, layer: str, option: Option) -> Entry:
        """One entry.

        Raises:
            UsageError: the layer or its option is not in the table.
        """
        for entry in self.layers.get(layer, ()):
            if entry.option == option:
                return entry
        have = "; ".join(str(entry.option) for entry in self.layers.get(layer, ())) or "no such layer"
        raise UsageError(f"no {option} for {layer} in the table (have: {have})")

    def save(self, path: Path) -> None:
        """Writes it as JSON, whole or not at all."""
        layers = {layer: [_row(entry) for entry in entries] for layer, entries in self.layers.items()}
        head = {"format": FORMAT, "about": dict(self.about), "base_loss": self.base_loss}
        write_json(path, {**head, "fixed": asdict(self.fixed), "layers": layers})

    @classmethod
    def load(cls, path: Path) -> "SensitivityTable":
        """The table in a file.

        Raises:
            DataError: there is no such file.
            CorruptArtifact: it is not such a table.
        """
        content = _content(path, FORMAT)
        try:
            layers = {name: tuple(map(_entry, rows)) for name, rows in content["layers"].items()}
            return cls(layers, float(content["base_loss"]), Cost(**content["fixed"]), content["about"])
        except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
            raise CorruptArtifact(f"{path} does not hold a sensitivity table: {error!r}") from error


def measure_sensitivity(
    options: Mapping[str, Sequence[Option]],
    loss_with: Callable[[str, Option], float],
    cost_of: Callable[[str, Option], Cost],
    *,
    base_loss: float,
    fixed: Cost = NOTHING,
    about: Mapping[str, Any] | None = None,
    journal: Path | None = None,
    progress: Progress | None = None,
) -> SensitivityTable:
    """Measures every option of every layer alone; what the journal holds already is not measured again.

    An untouched layer loses nothing, which is not measured either.

    Args:
        options: what may be done to each layer, in the model's order.
        loss_with: the calibration loss, in nats, of the model with one option at one layer.
        cost_of: what the layer costs then; it may be a measurement, too.
        base_loss: of the untouched model.
        fixed: what everything else costs.
        about: what the losses depend on, as plain data: model, images, how it is quantized.
        journal: a JSON file that gains an entry with each measurement; a stopped measuring goes on from it.
        progress: told of each entry.

    Raises:
        UsageError: a layer without options, no layer, or the journal belongs to something else.
        CorruptArtifact: the journal is damaged.
    """
    wanted = {layer: list(dict.fromkeys(given)) for layer, given in options.items()}
    if not wanted or not all(wanted.values()):
        raise UsageError("there must be a layer, and every layer needs an option")
    book = _Journal(journal, base_loss, dict(about or {}))
    places = [(layer, option) for layer, given in wanted.items() for option in given]
    progress = progress or NullProgress()
    progress.start("sensitivity", total=len(places), done=sum(place in book.known for place in places))
    try:
        for place in (place for place in places if place not in book.known):
            increase = 0.0 if place[1] == UNTOUCHED else loss_with(*place) - base_loss
            entry = Entry(place[1], increase if math.isfinite(increase) else math.inf, cost_of(*place))
            book.add(place[0], entry)
            progress.advance(1, {"loss": base_loss + entry.loss})
    finally:
        progress.done()
    layers = {layer: tuple(book.known[layer, option] for option in given) for layer, given in wanted.items()}
    return SensitivityTable(layers, base_loss, fixed, book.about)


class _Journal:
    """The entries measured so far, in memory and in a file."""

    def __init__(self, path: Path | None, base_loss: float, about: dict[str, Any]) -> None:
        self.path = path
        self.base_loss = base_loss
        self.about: dict[str, Any] = json.loads(json.dumps(about))
        self.known: dict[tuple[str, Option], Entry] = {}
        if path is not None and path.exists():
            self._read(path)

    def add(self, layer: str, entry: Entry) -> None:
        self.known[layer, entry.option] = entry
        if self.path is not None:
            rows = [{"layer": name, **_row(known)} for (name, _), known in self.known.items()]
            head = {"format": JOURNAL, "about": self.about, "base_loss": self.base_loss}
            write_json(self.path, {**head, "entries": rows})

    def _read(self, path: Path) -> None:
        content = _content(path, JOURNAL)
        try:
            about, base_loss = content["about"], float(content["base_loss"])
            for row in content["entries"]:
                entry = _entry(row)
                self.known[str(row["layer"]), entry.option] = entry
        except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
            raise CorruptArtifact(f"{path} does not hold measured losses: {error!r}") from error
        if about != self.about:
            raise UsageError(f"{path} was measured on {about}, not on {self.about}; give another file")
        if not math.isclose(base_loss, self.base_loss, rel_tol=SAME, abs_tol=SAME):
            raise UsageError(
                f"{path} was measured on a model with a loss of {base_loss:.6g}, this one has "
                f"{self.base_loss:.6g}; give another file"
            )


def _row(entry: Entry) -> dict[str, Any]:
    loss = entry.loss if math.isfinite(entry.loss) else None  # JSON has no inf
    cost = {name: None if value is None else float(value) for name, value in asdict(entry.cost).items()}
    return {**asdict(entry.option), "loss": loss, **cost}


def _entry(row: Mapping[str, Any]) -> Entry:
    loss = math.inf if row["loss"] is None else float(row["loss"])
    cost = Cost(row["size"], row["macs"], row["latency"])
    return Entry(Option(row["bits"], row["sparsity"]), loss, cost)


def _content(path: Path, format_: str) -> dict[str, Any]:
    content = read_json(path)
    found = content.get("format") if isinstance(content, dict) else None
    if found != format_:
        raise CorruptArtifact(f"{path} does not hold {format_!r} (found: {found!r})")
    return dict(content)


def check_metric(metric: str) -> str:
    """The name, if there is such a metric.

    Raises:
        UsageError: there is not.
    """
    if metric not in get_args(Metric):
        raise UsageError(f"a cost is one of {', '.join(get_args(Metric))}; got {metric!r}")
    return metric
