"""The drawing of an inspection: layers downwards in the order of execution, couplings as bands beside."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Literal

from kezuri.artifact.inspection import InspectedCoupling, InspectedLayer, Inspection
from kezuri.report import numbers
from kezuri.report.grid import printable
from kezuri.report.inspection import channel_time, spread, width

ROW = 22.0
TOP = 62.0  # above the first row: legend and headings
CHARACTER = 6.7  # of the fixed-width font that names are set in
LONGEST_NAME = 40
LONGEST_REASON = 44
BAR, BARS_APART, NUMBER = 160.0, 24.0, 52.0
LANE, NARROWEST_LANE, LANES = 18.0, 4.0, 420.0  # pixels a lane, and all lanes together
GAP = 16.0

Kind = Literal["alone", "shared", "program", "blocked"]
KINDS: dict[Kind, str] = {
    "alone": "free, one layer writes it",
    "shared": "free, shared: several layers write it",
    "program": "free in a rewritten program only",
    "blocked": "blocked",
}

STYLE = (files("kezuri.report") / "inspection_drawing.css").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Lane:
    """Where a coupling is drawn.

    Attributes:
        column: counted from the left, 0 is next to the layers.
        writes, reads: rows of the layers.
    """

    coupling: InspectedCoupling
    index: int
    column: int
    writes: tuple[int, ...]
    reads: tuple[int, ...]

    @property
    def first(self) -> int:
        """The first row it touches."""
        return min((*self.writes, *self.reads))


def kind(one: InspectedCoupling) -> Kind:
    """What a coupling is drawn as."""
    if one.state != "free":
        return "program" if one.state == "program" else "blocked"
    return "shared" if one.shared else "alone"


def lanes(inspection: Inspection) -> list[Lane]:
    """The couplings in as few columns as keep them apart, each from the first to the last layer it touches.

    A layer reads at the upper half of its row and writes at the lower, so that a chain of layers takes one.
    """
    rows = {layer.name: at for at, layer in enumerate(inspection.layers)}
    spans = []
    for index, one in enumerate(inspection.couplings):
        writes = tuple(rows[touch.layer] for touch in one.writes if touch.layer in rows)
        reads = tuple(rows[touch.layer] for touch in one.reads if touch.layer in rows)
        if writes or reads:
            halves = [2 * row + 1 for row in writes] + [2 * row for row in reads]
            spans.append((min(halves), max(halves), index, one, writes, reads))
    placed: list[Lane] = []
    ends: list[int] = []
    # of those that begin together the longest goes first, so that the short ones lie beside each other
    for start, end, index, one, writes, reads in sorted(spans, key=lambda span: (span[0], -span[1])):
        column = next((at for at, last in enumerate(ends) if last < start), len(ends))
        ends[column : column + 1] = [end]
        placed.append(Lane(one, index, column, writes, reads))
    return placed


class _Page:
    """Where everything is."""

    def __init__(self, inspection: Inspection, found: Sequence[Lane]) -> None:
        self.inspection, self.lanes = inspection, found
        longest = max((len(layer.name) for layer in inspection.layers), default=1)
        self.kinds = 8 + min(longest, LONGEST_NAME) * CHARACTER + GAP
        self.bars = self.kinds + 84
        self.work = self.bars + BAR + NUMBER + BARS_APART
        self.tracks = self.work + BAR / 2 + NUMBER + BARS_APART
        columns = max((lane.column for lane in found), default=0) + 1
        self.pitch = max(NARROWEST_LANE, min(LANE, LANES / columns))
        self.reasons = self.tracks + columns * self.pitch + GAP
        said = max((len(text) for text in self.said().values()), default=0)
        self.width = max(self.reasons + said * CHARACTER * 0.95 + 8, 640)
        self.height = TOP + len(inspection.layers) * ROW + 8

    def said(self) -> dict[int, str]:
        """By row, why something that begins there is blocked."""
        found: dict[int, list[str]] = {}
        for lane in self.lanes:
            if lane.coupling.state == "blocked":
                found.setdefault(lane.first, []).append(lane.coupling.reason or "")
        for row, layer in enumerate(self.inspection.layers):
            if layer.reason:
                found.setdefault(row, []).append(layer.reason)
        texts = {row: "; ".join(dict.fromkeys(reasons)) for row, reasons in found.items()}
        return {row: _shortened(printable(text), LONGEST_REASON) for row, text in texts.items()}

    def middle(self, row: int) -> float:
        return TOP + row * ROW + ROW / 2

    def track(self, lane: Lane) -> float:
        """The middle of the lane."""
        return self.tracks + (lane.column + 0.5) * self.pitch


def draw(inspection: Inspection) -> str:
    """The drawing as SVG, light and dark; bands link to `#coupling-<number>` of the page they stand in."""
    found = lanes(inspection)
    page = _Page(inspection, found)
    most = max((layer.outputs for layer in inspection.layers), default=1) or 1
    hardest = max((layer.macs for layer in inspection.layers), default=1) or 1
    size = round(page.width), round(page.height)
    parts = [
        f'<svg class="kz" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" '
        f'width="{size[0]}" height="{size[1]}" '
        f'role="img" aria-label="{escape(printable(inspection.model))}: layers and couplings">',
        f"<style>{STYLE}</style>",
        '<defs><pattern id="kz-hatch" width="5" height="5" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><line class="stripe" x1="0" y1="0" x2="0" y2="5"/></pattern></defs>',
        f'<rect class="paper" width="{size[0]}" height="{size[1]}"/>',
        *_legend(inspection),
        *_headings(page),
    ]
    written = _written(inspection)
    for row, layer in enumerate(inspection.layers):
        parts += _layer(page, row, layer, written.get(layer.name, []), (most, hardest))
    parts += [_band(page, lane) for lane in found]
    for row, text in page.said().items():
        parts.append(_text(page.reasons, page.middle(row) + 4, text, "quiet"))
    return "\n".join([*parts, "</svg>"])


def _written(inspection: Inspection) -> dict[str, list[tuple[InspectedCoupling, int]]]:
    """By layer, the couplings among its outputs, with how many channels each has of them."""
    found: dict[str, list[tuple[InspectedCoupling, int]]] = {}
    for one in inspection.couplings:
        for touch in one.writes:
            found.setdefault(touch.layer, []).append((one, touch.channels))
    return found


def _legend(inspection: Inspection) -> Iterable[str]:
    x = 8.0
    there = {kind(one) for one in inspection.couplings}
    for name, words in KINDS.items():
        if name in there:
            yield f'<rect class="fill {name}" x="{x:.1f}" y="8" width="12" height="12" rx="2"/>'
            yield _text(x + 18, 18, words)
            x += 18 + len(words) * 6.1 + 18
    yield f'<circle class="write alone" cx="{x + 5:.1f}" cy="14" r="4"/>{_text(x + 14, 18, "written")}'
    yield f'<circle class="read alone" cx="{x + 69:.1f}" cy="14" r="3.4"/>{_text(x + 78, 18, "read")}'


def _headings(page: _Page) -> Iterable[str]:
    named = (
        (8.0, "layer"),
        (page.kinds, "kind"),
        (page.bars, "channels it writes"),
        (page.work, "MACs"),
        (page.tracks, "couplings"),
    )
    for x, words in named:
        yield _text(x, TOP - 10, words, "quiet")


def _layer(
    page: _Page,
    row: int,
    layer: InspectedLayer,
    written: Sequence[tuple[InspectedCoupling, int]],
    most: tuple[int, int],
) -> Iterable[str]:
    """The name, kind, width and work of one layer."""
    top, middle = TOP + row * ROW, page.middle(row)
    if row % 2 == 0:
        yield f'<rect class="zebra" x="0" y="{top:.1f}" width="{page.width:.0f}" height="{ROW}"/>'
    name = printable(layer.name)
    yield f"<g><title>{escape(_hint(layer))}</title>"
    yield _text(8, middle + 4, _tail(name, LONGEST_NAME), "name")
    yield _text(page.kinds, middle + 4, what(layer), "quiet") + "</g>"
    x = page.bars
    scale = BAR / most[0]
    known = 0
    for one, channels in written:
        known += channels
        hint = f"<title>{escape(hint_of(one))}</title>"
        yield _bar(x, middle, channels * scale, f"fill {kind(one)}", hint)
        x += channels * scale
    if known < layer.outputs:
        hint = f"<title>{escape(layer.reason or 'not followed')}</title>"
        yield _bar(x, middle, (layer.outputs - known) * scale, "fill blocked", hint)
    yield _text(page.bars + max(layer.outputs * scale, 2) + 5, middle + 4, f"{layer.outputs:,}", "quiet")
    yield _bar(page.work, middle, layer.macs / most[1] * BAR / 2, "work", "")
    shown = numbers.count(layer.macs)
    yield _text(page.work + max(layer.macs / most[1] * BAR / 2, 2) + 5, middle + 4, shown, "quiet")


def _band(page: _Page, lane: Lane) -> str:
    """A band from the first layer to the last, with a dot where it is written and a ring where it is read."""
    x, part = page.track(lane), ROW / 4
    ys = [page.middle(row) + part for row in lane.writes] + [page.middle(row) - part for row in lane.reads]
    thick = min(7.0, page.pitch * 0.5)
    dot = min(4.4, page.pitch * 0.36)
    left = page.tracks - 6
    pieces = [
        f'<a href="#coupling-{lane.index}"><g class="c {kind(lane.coupling)}">'
        f"<title>{escape(hint_of(lane.coupling))}</title>",
        f'<rect class="band" x="{x - thick / 2:.1f}" y="{min(ys) - 2:.1f}" width="{thick:.1f}" '
        f'height="{max(ys) - min(ys) + 4:.1f}" rx="{thick / 2:.1f}"/>',
    ]
    for row in lane.reads:
        y = page.middle(row) - part
        pieces.append(f'<line class="touch" x1="{left:.1f}" y1="{y:.1f}" x2="{x:.1f}" y2="{y:.1f}"/>')
        pieces.append(f'<circle class="read" cx="{x:.1f}" cy="{y:.1f}" r="{dot * 0.8:.1f}"/>')
    for row in lane.writes:
        y = page.middle(row) + part
        pieces.append(f'<line class="touch" x1="{left:.1f}" y1="{y:.1f}" x2="{x:.1f}" y2="{y:.1f}"/>')
        pieces.append(f'<circle class="write" cx="{x:.1f}" cy="{y:.1f}" r="{dot:.1f}"/>')
    return "".join([*pieces, "</g></a>"])


def what(layer: InspectedLayer) -> str:
    """A layer's kind in short: `3×3`, `3×3 /32` for groups, `linear`."""
    if not layer.kernel:
        return "linear" if layer.kind.endswith("Linear") else _shortened(printable(layer.kind), 11)
    turned = " up" if "Transpose" in layer.kind else ""
    groups = "" if layer.groups == 1 else " dw" if layer.groups == layer.inputs else f" /{layer.groups}"
    return "×".join(map(str, layer.kernel)) + turned + groups


def hint_of(one: InspectedCoupling) -> str:
    """All about a coupling, on a few lines."""
    said = [f"{one.name}: {width(one)} channels, {one.state}{', shared' if one.shared else ''}"]
    if one.reason:
        said.append(one.reason)
    said.append(f"written by {_some([touch.layer for touch in one.writes])}")
    said.append(f"read by {_some([touch.layer for touch in one.reads])}")
    said.append(f"one channel: {numbers.count(one.params)} parameters, {numbers.count(one.macs)} MACs")
    if one.latency is not None:
        said.append(f"{channel_time(one.latency)} ms measured ({spread(one.latency)})")
    return printable_lines(said)


def _hint(layer: InspectedLayer) -> str:
    shape = f"{layer.inputs:,} → {layer.outputs:,} channels"
    cost = f"{numbers.count(layer.params)} parameters, {numbers.count(layer.macs)} MACs"
    return printable_lines(
        [f"{layer.name}: {layer.kind}", shape, cost, *([layer.reason] if layer.reason else [])]
    )


def printable_lines(said: Iterable[str]) -> str:
    """Lines without characters that mean something else to a browser or terminal."""
    return "\n".join(printable(line) for line in said)


def _some(names: Sequence[str], shown: int = 6) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return (", ".join(names[:shown]) or "no layer") + more


def _tail(text: str, most: int) -> str:
    """The end of a long name, which tells layers apart."""
    return text if len(text) <= most else "…" + text[-(most - 1) :]


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _text(x: float, y: float, words: str, look: str = "") -> str:
    marked = f' class="{look}"' if look else ""
    return f'<text{marked} x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def _bar(x: float, middle: float, length: float, look: str, hint: str) -> str:
    shape = f'x="{x:.1f}" y="{middle - 5:.1f}" width="{max(length, 1):.1f}" height="10" rx="1.5"'
    return f'<rect class="{look}" {shape}>{hint}</rect>'
