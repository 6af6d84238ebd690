"""The page of an inspection: one HTML file, light and dark, that needs no network."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from importlib.resources import files

from kezuri.artifact.inspection import InspectedCoupling, Inspection, Touch
from kezuri.core.measurement import runtime_title
from kezuri.report import markup, numbers
from kezuri.report.grid import Cell, Column, Grid, printable
from kezuri.report.inspection import about, blocked, channel_time, headline, rewritten, spread, untimed, width
from kezuri.report.inspection_drawing import STYLE, draw, kind, what

SHOWN = 4  # layers of a coupling in its line
HEADINGS = (
    ("coupling", ""),
    ("channels", "right"),
    ("state", ""),
    ("params", "right"),
    ("MACs", "right"),
    ("ms", "right"),
    ("written by", ""),
    ("read by", ""),
)


def inspection_page(inspection: Inspection) -> str:
    """All of an inspection as HTML: the drawing, every coupling, what blocks, every layer."""
    name = printable(inspection.model)
    body = "\n".join(
        (
            f'<div class="brand"><b>Kezuri</b> · inspection of {markup.escape(name)}</div>',
            f"<h1>{markup.escape(headline(inspection))}</h1>",
            markup.paragraph(f"{name}: {about(inspection)}.", "lead"),
            markup.tiles(_tiles(inspection)),
            markup.section(
                "Layers and couplings", _caption(), f'<div class="drawing">{draw(inspection)}</div>'
            ),
            markup.section("Every coupling", _note(inspection), _table(inspection)),
            markup.section("What must stay", markup.table(_reasons(inspection))),
            markup.section("Layers", markup.fold("All layers", markup.table(_layers(inspection)))),
            "<footer>Kezuri inspection. This file needs no network.</footer>",
        )
    )
    return _page(f"{name}: {headline(inspection)}", body)


def _page(title: str, body: str) -> str:
    style, script = _resource("page.css") + _resource("inspection.css"), _resource("inspection.js")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src 'sha256-{_digest(script)}'",
            f"style-src 'sha256-{_digest(style)}' 'sha256-{_digest(STYLE)}'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{markup.escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _tiles(inspection: Inspection) -> Iterable[tuple[str, str, str]]:
    held = {state: len(inspection.of(state)) for state in ("free", "program", "blocked")}
    more = f"{held['program']} more in a rewritten program, " if held["program"] else ""
    yield "couplings", f"{held['free']} free", f"{more}{held['blocked']} blocked"
    yield "parameters", numbers.count(inspection.params), f"{len(inspection.layers):,} layers"
    yield "MACs", numbers.count(inspection.macs), f"images {'×'.join(map(str, inspection.image_shape))}"
    found = inspection.latency
    if found is not None:
        where = runtime_title(found.conditions.get("runtime"))
        ends = " to ".join(numbers.significant(value) for value in (found.low, found.high))
        yield (
            "one image",
            numbers.milliseconds(found.value),
            f"{ends} ms, {where}",
        )


def _caption() -> str:
    return markup.paragraph(
        "Each row is a layer, in the order of execution; each band a coupling: channels that go from all its "
        "layers or from none. Hover over a band to see its layers; click it to find its line below.",
        "muted",
    )


def _note(inspection: Inspection) -> str:
    said = (
        "Params, MACs and ms are what the whole model loses with one channel; N×M channels go by N, M wide "
        "each. A blocked coupling cannot be cut, so that its params and MACs are those of its layers. Click "
        "a heading to sort."
    )
    timed = f"Milliseconds: {inspection.timed}." if inspection.timed else "Nothing was timed."
    missing = [f"Not timed: {_named(held)} ({reason})." for reason, held in untimed(inspection).items()]
    return markup.paragraph(said, "note") + markup.paragraph(" ".join([timed, *missing]), "note")


def _table(inspection: Inspection) -> str:
    """Every coupling, those whose channels cost most first: by time where it was measured, else by MACs."""
    head = "".join(
        f'<th scope="col"{_look(look)}{_sorted(words, inspection)}>'
        f'<button type="button">{words}</button></th>'
        for words, look in HEADINGS
    )
    order = sorted(enumerate(inspection.couplings), key=lambda entry: _cost(entry[1]))
    body = "\n".join(_row(index, one) for index, one in order)
    inner = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    return f'<div class="wide"><table class="sortable">{inner}</table></div>'


def _sorted(words: str, inspection: Inspection) -> str:
    by = "MACs" if inspection.latency is None else "ms"
    return ' aria-sort="descending"' if words == by else ""


def _cost(one: InspectedCoupling) -> tuple[bool, float, int]:
    return one.latency is None, 0.0 if one.latency is None else -one.latency.value, -one.macs


def _row(index: int, one: InspectedCoupling) -> str:
    state = f"{one.state}, shared" if one.shared else one.state
    time = None if one.latency is None else one.latency.value
    cells = [
        _cell(one.name, printable(one.name), "coupling", mark=kind(one), below=printable(one.reason or "")),
        _cell(one.width, width(one), "right"),
        _cell(state, state),
        _cell(one.params, numbers.count(one.params), "right"),
        _cell(one.macs, numbers.count(one.macs), "right"),
        _cell(time, channel_time(one.latency), "right", below=spread(one.latency)),
        _touched(one.writes),
        _touched(one.reads),
    ]
    quiet = ' class="quiet"' if one.state == "blocked" else ""
    return f'<tr id="coupling-{index}"{quiet}>{"".join(cells)}</tr>'


def _cell(value: object, text: str, look: str = "", *, mark: str = "", below: str = "") -> str:
    """`value` is what the column is sorted by; `below` stands small under the text."""
    plain = "" if value is None else markup.escape(str(value))
    dot = f'<span class="mark {mark}"></span>' if mark else ""
    small = f"<small>{markup.escape(below)}</small>" if below else ""
    return f'<td{_look(look)} data-value="{plain}">{dot}{markup.escape(text)}{small}</td>'


def _look(look: str) -> str:
    return f' class="{look}"' if look else ""


def _touched(touches: Sequence[Touch]) -> str:
    """The first layers, and how many more; all of them when the mouse rests there."""
    names = [printable(touch.layer) for touch in touches]
    whole = markup.escape(", ".join(names))
    shown = names if len(names) <= SHOWN else [*names[: SHOWN - 1], f"and {len(names) - SHOWN + 1} more"]
    listed = "".join(f"<div>{markup.escape(name)}</div>" for name in shown)
    return f'<td class="layers" data-value="{len(names)}" title="{whole}">{listed}</td>'


def _named(held: Iterable[InspectedCoupling]) -> str:
    return ", ".join(printable(one.name) for one in held)


def _reasons(inspection: Inspection) -> Grid:
    columns = (
        Column("reason", "reason", align="left"),
        Column("state", "state", align="left"),
        Column("couplings", "couplings"),
        Column("channels", "channels"),
    )
    rows = [
        (
            Cell.word(reason),
            Cell.word(held[0].state),
            Cell(f"{len(held):,}", len(held)),
            Cell(f"{sum(one.channels for one in held):,}"),
        )
        for found in (blocked(inspection), rewritten(inspection))
        for reason, held in found.items()
    ]
    return Grid("", columns, tuple(rows))


def _layers(inspection: Inspection) -> Grid:
    columns = (
        Column("layer", "layer", align="left"),
        Column("kind", "kind", align="left"),
        Column("shape", "", align="left"),
        Column("inputs", "reads"),
        Column("outputs", "writes"),
        Column("params", "params"),
        Column("macs", "MACs"),
    )
    rows = [
        (
            Cell.word(layer.name),
            Cell.word(layer.kind),
            Cell.word(what(layer)),
            Cell(f"{layer.inputs:,}"),
            Cell(f"{layer.outputs:,}"),
            Cell(numbers.count(layer.params)),
            Cell(numbers.count(layer.macs)),
        )
        for layer in inspection.layers
    ]
    return Grid("", columns, tuple(rows))


def _resource(name: str) -> str:
    return (files("kezuri.report") / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
