"""The tables of answers: dense against compressed, the checks, and many conditions side by side."""

from collections.abc import Iterable
from typing import Any

from kezuri.core.measurement import Measurement, runtime_title
from kezuri.core.ratios import Better
from kezuri.report import numbers
from kezuri.report.compare import Comparison, Condition, Spread
from kezuri.report.grid import Cell, Column, Grid
from kezuri.report.numbers import DASH, PLUS_MINUS
from kezuri.report.reading import RunView

PROOF = "cut model against masked model, largest relative error of the rounds that stand,"
BEST, FRONT = "★", "●"


def answer_table(run: RunView) -> Grid:
    """The dense model against the compressed one, in every metric that was measured."""
    rows = [*_quality(run), *_footprint(run), *_latencies(run), *_others(run)]
    columns = (
        Column("metric", "", align="left"),
        Column("dense", "dense"),
        Column("compressed", "compressed"),
        Column("change", "change"),
    )
    shown = [row for row in rows if row[1].text != DASH or row[2].text != DASH]
    return Grid("", columns, tuple(shown))


def checks_table(run: RunView) -> Grid:
    """What was checked about the compressed model: proof of the cut, parity of the export."""
    rows: list[tuple[Cell, ...]] = []
    proof = run.proof
    if proof is not None:
        inputs = f"{proof.samples} random batch{'' if proof.samples == 1 else 'es'}"
        rows.append(_check(f"{PROOF} on {inputs}", proof, "number"))
    parity_words = {
        "parity_agreement": ("exported model against PyTorch, same predictions", "percent"),
        "parity_error": ("exported model against PyTorch, largest absolute error", "number"),
        "flipped": ("predictions that differ from the dense model's", "percent"),
    }
    for metric, (words, kind) in parity_words.items():
        found = run.find(metric)
        if found is not None:
            rows.append(_check(words, found, kind))
    return Grid("", (Column("check", "", align="left"), Column("value", "measured")), tuple(rows))


def comparison_table(comparison: Comparison) -> Grid:
    """Condition, rate, lr_ratio, rounds, time, accuracy, size and more; one line a condition."""
    conditions = comparison.conditions
    hours = max((c.hours.value for c in conditions if c.hours is not None), default=1.0)
    time = ("hours", 1.0) if hours >= 1 else ("minutes", 60.0)
    unit, scale = numbers.size_unit([c.size.value for c in conditions if c.size is not None])
    masked = any(c.zeros is not None for c in conditions)
    columns = (
        Column("condition", "condition", align="left"),
        Column("rate", "rate %", spare=1),
        Column("lr_ratio", "lr_ratio", spare=1),
        Column("rounds", "rounds", spare=3),
        Column("hours", time[0], spare=4),
        Column("accuracy", f"accuracy, {comparison.split} %"),
        Column("size", f"size {unit}"),
        Column("ratio", "smaller", spare=2),
        Column("params", "params", spare=5),
        *([Column("zeros", "zeros %")] if masked else []),
        Column("macs", "MACs", spare=7),
        Column("latency", "latency ms", spare=2),
        Column("runs", "runs", spare=8),
        Column("status", "status", align="left", spare=6),
        Column("front", "front", align="left"),
    )
    rows = tuple(
        _condition_row(c, time=time, scale=scale, masked=masked, best=c is comparison.best)
        for c in conditions
    )
    notes = [f"front: {FRONT} no other is smaller and as accurate; {BEST} the answer"]
    timed = dict.fromkeys(c.runtime for c in conditions if c.latency is not None)
    if len(timed) == 1:
        notes.append(f"latency: {runtime_title(next(iter(timed)))}, one image")
    elif timed:
        held = {name: [c.name for c in conditions if c.latency and c.runtime == name] for name in timed}
        each = "; ".join(f"{runtime_title(name)}: {', '.join(names)}" for name, names in held.items())
        notes.append(f"latency: not in one runtime ({each})")
    if any(len(c.folders) > 1 for c in conditions):
        notes.append(f"{PLUS_MINUS}: one standard deviation over runs that differ only by their seed")
    return Grid("", columns, rows, tuple(notes))


def _condition_row(
    c: Condition, *, time: tuple[str, float], scale: float, masked: bool, best: bool
) -> tuple[Cell, ...]:
    ratio = c.dense_size / c.size.value if c.dense_size and c.size and c.size.value else None
    mark = BEST if best else FRONT if c.on_front else ""
    return (
        Cell.word(c.name),
        Cell(numbers.setting(c.rate, scale=100), c.rate),
        Cell(numbers.setting(c.lr_ratio), c.lr_ratio),
        Cell(numbers.setting(None if c.rounds is None else round(c.rounds, 1)), c.rounds),
        spread_cell(c.hours, times=time[1], places=1),
        spread_cell(c.accuracy, times=100, places=2),
        spread_cell(c.size, times=1 / scale),
        Cell(numbers.times(ratio), ratio),
        Cell(numbers.count(None if c.params is None else c.params.value), _mean(c.params)),
        *([spread_cell(c.zeros, times=100, places=2)] if masked else []),
        Cell(numbers.count(None if c.macs is None else c.macs.value), _mean(c.macs)),
        spread_cell(c.latency),
        Cell(str(len(c.folders)), len(c.folders)),
        Cell.word(c.status),
        Cell(mark, {BEST: "best", FRONT: "front"}.get(mark)),
    )


def spread_cell(spread: Spread | None, *, times: float = 1.0, places: int | None = None) -> Cell:
    """The mean and one standard deviation with as many decimals, `times` as large."""
    if spread is None:
        return Cell(DASH)

    def shown(value: float) -> str:
        return numbers.significant(value) if places is None else numbers.fixed(value, places)

    mean = shown(spread.value * times)
    decimals = len(mean.partition(".")[2]) if "e" not in mean else None
    if not spread.deviation:
        return Cell(mean, spread.value)
    around = spread.deviation * times
    told = numbers.significant(around) if decimals is None else numbers.fixed(around, decimals)
    return Cell(f"{mean} {PLUS_MINUS} {told}", spread.value)


def _mean(spread: Spread | None) -> float | None:
    return None if spread is None else spread.value


def _check(words: str, found: Measurement, kind: str) -> tuple[Cell, ...]:
    text = numbers.percent(found.value) if kind == "percent" else numbers.significant(found.value, 2)
    return Cell(words), Cell(text, found.value)


def _quality(run: RunView) -> Iterable[tuple[Cell, ...]]:
    for split in dict.fromkeys((run.split, "validation")):
        dense, final = run.dense("accuracy", split=split), run.final("accuracy", split=split)
        change = numbers.points(final.value - dense.value) if dense and final else DASH
        yield (
            Cell(f"accuracy, {split}", "accuracy"),
            Cell(_interval(dense), _value(dense)),
            Cell(_interval(final), _value(final)),
            Cell(change, final.value - dense.value if dense and final else None),
        )


def _footprint(run: RunView) -> Iterable[tuple[Cell, ...]]:
    yield _row("parameters", run.dense("params"), run.final("params"), "smaller")
    yield _row("MACs", run.dense("macs"), run.final("macs"), "smaller")
    if (zeros := run.final("sparsity", of="weights")) is not None:
        name = Cell.word("zeros among the weights that may be removed")
        yield name, Cell(DASH), Cell(numbers.percent(zeros.value), zeros.value), Cell(DASH)
    words = {"safetensors": "weights file", "onnx": "ONNX file", "onnx.xz": "ONNX file, compressed (xz)"}
    for kind in _conditions(run, "size", "format"):
        dense, final = run.dense("size", format=kind), run.final("size", format=kind)
        yield _row(words.get(str(kind), f"size, {kind}"), dense, final, "smaller")


def _latencies(run: RunView) -> Iterable[tuple[Cell, ...]]:
    held: dict[tuple[Any, Any, Any], None] = {}
    for row in run.measurements:
        if row.metric == "latency" and row.conditions.get("model") in ("dense", "final"):
            said = row.conditions
            held[(said.get("runtime"), said.get("threads"), said.get("batch"))] = None
    for runtime, threads, batch in held:
        said = {"runtime": runtime, "threads": threads, "batch": batch}
        amount = {1: "1 thread", "all": "all threads"}.get(threads, f"{threads} threads")
        images = f", batch {batch}" if batch not in (None, 1) else ""
        dense, final = run.dense("latency", **said), run.final("latency", **said)
        yield _row(f"latency, {runtime_title(runtime)}, {amount}{images}", dense, final, "faster")


def _others(run: RunView) -> Iterable[tuple[Cell, ...]]:
    for runtime in _conditions(run, "memory", "runtime"):
        dense, final = run.dense("memory", runtime=runtime), run.final("memory", runtime=runtime)
        yield _row(f"peak memory, {runtime_title(runtime)}", dense, final, "smaller")
    dense, final = run.dense("efficiency"), run.final("efficiency")
    yield _row("efficiency (accuracy per size)", dense, final, "more")


def _conditions(run: RunView, metric: str, condition: str) -> list[Any]:
    found = (m for m in run.measurements if m.metric == metric and m.conditions.get("model") != "round")
    return list(dict.fromkeys(m.conditions.get(condition) for m in found if condition in m.conditions))


def _row(
    words: str, dense: Measurement | None, final: Measurement | None, better: Better
) -> tuple[Cell, ...]:
    ratio = None
    if dense and final and dense.value and final.value:
        ratio = final.value / dense.value if better == "more" else dense.value / final.value
    return (
        Cell.word(words),
        Cell(_amount(dense), _value(dense)),
        Cell(_amount(final), _value(final)),
        Cell(numbers.change(ratio, better), ratio),
    )


def _amount(found: Measurement | None) -> str:
    if found is None:
        return DASH
    if found.metric == "latency":
        shown = [numbers.significant(v) for v in (found.low, found.high)]
        spread = f" ({shown[0]}–{shown[1]})" if DASH not in shown else ""
        return f"{numbers.milliseconds(found.value)}{spread}"
    if found.metric in ("size", "memory"):
        return numbers.size(found.value)
    if found.metric == "efficiency":
        return f"{numbers.significant(found.value)} {found.unit}"
    return numbers.count(found.value)


def _interval(found: Measurement | None) -> str:
    if found is None:
        return DASH
    if found.low is None or found.high is None:
        return numbers.percent(found.value)
    low, high = numbers.fixed(found.low * 100, 1), numbers.fixed(found.high * 100, 1)
    return f"{numbers.percent(found.value)} ({low}–{high})"


def _value(found: Measurement | None) -> float | None:
    return None if found is None else found.value
