"""The report of a run and of a comparison: one HTML file each that opens anywhere, offline."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from kezuri.core.errors import KezuriError
from kezuri.core.goal import Goal
from kezuri.report import markup, numbers
from kezuri.report.compare import Comparison
from kezuri.report.grid import Cell, Column, Grid
from kezuri.report.plots import Chart, finding
from kezuri.report.reading import RunView
from kezuri.report.rounds import rounds_table
from kezuri.report.run_tables import bits_table, decisions_table, kernels_table, layers_table
from kezuri.report.tables import answer_table, checks_table, comparison_table

# Characters that fit across the page in a table.
PAGE_WIDTH = 112
PACKED = (
    "Size is that of a file in which every layer has its own bits; one for ONNX Runtime holds 8 bits for "
    "each weight."
)
TIMED = (
    "Layers of 32 bits stay in floats. Choices go by what each layer takes and loses by itself; those timed "
    "as a whole stand where they were measured."
)


def run_page(run: RunView, charts: Mapping[str, Chart]) -> str:
    """The report of one run as HTML.

    Args:
        run: the run.
        charts: of `rounds`, `layers` and `damage` those there are.
    """
    quiet = ["" if entry.stands else "quiet" for entry in run.rounds]
    layers = markup.table(layers_table(run), marked=[_look(layer.state) for layer in run.layers])
    body = "\n".join(
        (
            _head(run),
            markup.section("Dense against compressed", markup.table(answer_table(run)), _fineprint(run)),
            markup.section(
                "Rounds",
                _figure("rounds", charts),
                markup.table(rounds_table(run).filled(), marked=quiet),
                _figure("pareto", charts),
            ),
            markup.section(
                "Layers", _figure("layers", charts), markup.fold("All layers, with reasons", layers)
            ),
            *([markup.section("Bits", *_bits(run, charts))] if run.allocation else []),
            *_kernels(run),
            markup.section("Classes", _figure("damage", charts), _classes(run)),
            markup.section("Decisions", markup.table(decisions_table(run))),
            markup.section("Checks", markup.table(checks_table(run))),
            markup.section("How to reproduce", *_reproduce(run)),
            markup.section("Environment", markup.pairs(_environment(run.manifest))),
            markup.section("Files", _files(run)),
            f"<footer>Kezuri report, run {_short(run)}. This file needs no network.</footer>",
        )
    )
    return markup.page(f"{run.name}: {finding(run)}", body, dict(charts))


def _kernels(run: RunView) -> list[str]:
    """Where the time of a file of integers goes; nothing for other files."""
    grid = kernels_table(run)
    if not grid.rows:
        return []
    note = (
        "One image a call on one thread, by the profile of ONNX Runtime; what moves bytes counts as integers."
    )
    return [markup.section("Kernels", markup.table(grid), markup.paragraph(note, "note"))]


def comparison_page(comparison: Comparison, charts: Mapping[str, Chart]) -> str:
    """The report of a comparison as HTML; `charts` holds `pareto` where there is one."""
    runs = sum(len(c.folders) for c in comparison.conditions)
    marked = [
        "strong" if c is comparison.best else "" if c.on_front else "quiet" for c in comparison.conditions
    ]
    lead = f"{len(comparison.conditions)} conditions, {runs} runs, accuracy on the {comparison.split} split."
    grid = comparison_table(comparison).filled()
    most = grid.fitting(PAGE_WIDTH)
    rest = markup.table(grid, marked=marked) if most.columns != grid.columns else ""
    body = "\n".join(
        (
            '<div class="brand"><b>Kezuri</b> · comparison</div>',
            f"<h1>{markup.escape(comparison.headline())}</h1>",
            markup.paragraph(lead, "lead"),
            _figure("pareto", charts),
            markup.section("Conditions", markup.table(most, marked=marked), markup.fold("All columns", rest)),
            "<footer>Kezuri comparison. This file needs no network.</footer>",
        )
    )
    return markup.page(f"Comparison: {comparison.headline()}", body, dict(charts))


def _head(run: RunView) -> str:
    answer = run.answer
    goal = _goal(run.recipe.get("goal"))
    met = _verdict(answer)
    kept = f" The floor is {answer['floor']}." if answer.get("floor") else ""
    why = f" Stopped: {str(answer['stop_why']).rstrip('.')}." if answer.get("stop_why") else ""
    parts = [
        f'<div class="brand"><b>Kezuri</b> · {markup.escape(run.name)} · {markup.escape(_about(run))}</div>',
        f"<h1>{markup.escape(finding(run))}</h1>",
        markup.paragraph(str(answer.get("text") or ""), "lead"),
        _state(run),
        markup.tiles(_tiles(run)),
        markup.paragraph(f"{met}: {goal}.{kept}{why}" if goal else why.strip(), "muted"),
    ]
    return "\n".join(part for part in parts if part)


def _verdict(answer: Mapping[str, Any]) -> str:
    """Whether the goal is met: on the images it was chosen by, and on those that nobody chose by."""
    if answer.get("met") is False:
        return "Goal not met"
    if answer.get("confirmed") is False:
        return "Goal not confirmed on test"
    return "Goal met" if answer.get("met") else "Goal"


def _state(run: RunView) -> str:
    if run.finished and run.answer.get("met") is not False:
        if run.answer.get("confirmed") is not False:
            return ""
        return markup.paragraph(f"Not confirmed on test: the floor is {run.answer['floor']}.", "banner")
    if run.finished:
        return markup.paragraph(
            "The goal was not met; these are the numbers of the best model found.", "banner"
        )
    reason = f" Reason: {run.manifest['reason']}." if run.manifest.get("reason") else ""
    text = (
        f"This run has not finished ({run.status}): the numbers are those of its last accepted round.{reason}"
    )
    return markup.paragraph(text, "banner")


def _tiles(run: RunView) -> Iterable[tuple[str, str, str]]:
    before, after = run.dense("accuracy", split=run.split), run.final("accuracy", split=run.split)
    if before and after:
        origin = f"{numbers.percent(before.value)} → {numbers.percent(after.value)}"
        yield f"accuracy, {run.split}", numbers.points(after.value - before.value), origin
    latency = {"threads": 1} if run.final("latency", threads=1) else {}
    shown = (
        ("parameters", run.dense("params"), run.final("params"), numbers.count),
        (
            "file",
            run.dense("size", format=run.size_format),
            run.final("size", format=run.size_format),
            numbers.size,
        ),
        (
            f"latency{', 1 thread' if latency else ''}",
            run.dense("latency", **latency),
            run.final("latency", **latency),
            numbers.milliseconds,
        ),
    )
    for what, dense, final, words in shown:
        same = what == "parameters" and dense and final and dense.value == final.value
        if dense and final and final.value and not same:
            better = numbers.change(dense.value / final.value, "faster" if "latency" in what else "smaller")
            yield what, better, f"{words(dense.value)} → {words(final.value)}"


def _about(run: RunView) -> str:
    model, data = run.recipe.get("model"), run.manifest.get("data") or run.recipe.get("data")
    parts = [
        model.get("use") if isinstance(model, dict) else model,
        (data.get("name") or data.get("use")) if isinstance(data, dict) else data,
        None if run.recipe.get("seed") is None else f"seed {run.recipe['seed']}",
        numbers.duration(run.seconds) if run.seconds else None,
        str(run.manifest.get("updated", ""))[:10],
    ]
    return " · ".join(str(part) for part in parts if part)


def _goal(goal: object) -> str:
    if not isinstance(goal, dict) or not goal:
        return ""
    try:
        return str(Goal(**goal))
    except (TypeError, KezuriError):
        return json.dumps(goal, ensure_ascii=False)


def _figure(name: str, charts: Mapping[str, Chart]) -> str:
    return markup.figure(name) if name in charts else ""


def _look(state: str) -> str:
    return "" if state == "cut" else "quiet"


def _fineprint(run: RunView) -> str:
    said = ["Accuracy with its 95 % interval."]
    if run.find("latency"):
        said.append("Latency is the median, with the 10th and 90th percentile.")
    if run.find("size"):
        said.append("Sizes are decimal (1 MB = 1,000,000 bytes).")
    return markup.paragraph(" ".join(said), "note")


def _classes(run: RunView) -> str:
    columns = (Column("class", "class", align="left"), Column("lost", "accuracy lost, points"))
    rows = [(Cell.word(name), Cell(numbers.fixed(lost * 100, 2), lost)) for name, lost in run.damage]
    return markup.fold("All classes", markup.table(Grid("", columns, tuple(rows))))


def _bits(run: RunView, charts: Mapping[str, Chart]) -> Iterable[str]:
    yield from (_figure(name, charts) for name in ("bits", "bits_by_layer"))
    yield markup.fold("All layers", markup.table(bits_table(run)))
    yield markup.paragraph(TIMED if run.allocation["metric"] == "latency" else PACKED, "note")


def _runtime(run: RunView) -> str:
    """Where the run ships: a runtime's name, which is its package's."""
    goal = run.recipe.get("goal")
    return str(goal.get("runtime")) if isinstance(goal, dict) else ""


def _reproduce(run: RunView) -> Iterable[str]:
    versions = run.manifest.get("packages")
    known = versions if isinstance(versions, dict) else {}
    pins = [
        f'"{name}=={str(known[name]).partition("+")[0]}"'
        for name in dict.fromkeys(("kezuri", "torch", "onnxruntime", _runtime(run)))
        if known.get(name)
    ]
    lines = [f"pip install {' '.join(pins)}"] if pins else []
    lines.append("kezuri run recipe.yaml        # the recipe in this folder")
    if not run.finished:
        lines.append("kezuri resume .               # or finish this run, from this folder")
    yield markup.code("\n".join(lines))
    note = "The same seed, versions, machine and number of threads give the same model, bit for bit."
    yield markup.paragraph(note, "note")
    recipe = json.dumps(run.recipe, indent=2, ensure_ascii=False)
    yield markup.fold("The complete recipe, defaults filled in", markup.code(recipe))


def _environment(manifest: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for name in ("processor", "cores", "threads", "device", "system", "python", "seed", "fingerprint"):
        yield name, manifest.get(name)
    packages = manifest.get("packages")
    if isinstance(packages, dict):
        yield "packages", ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    data = manifest.get("data")
    if isinstance(data, dict):
        yield "data", ", ".join(f"{k} {_short_value(v)}" for k, v in data.items() if v not in (None, ""))


def _short_value(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) if len(value) <= 12 else f"({len(value)})"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def _files(run: RunView) -> str:
    files = run.manifest.get("files")
    return markup.pairs(files.items(), kind="hash words") if isinstance(files, dict) else ""


def _short(run: RunView) -> str:
    return markup.escape(str(run.manifest.get("fingerprint") or run.name)[:24])
