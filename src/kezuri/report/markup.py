"""Pieces of an HTML page that needs no network: everything from a run is escaped on its way in."""

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cache
from html import escape as escape
from importlib.resources import files
from typing import Any

import vl_convert

from kezuri.report.grid import Grid
from kezuri.report.plots import Chart, spec


def page(title: str, body: str, charts: dict[str, Chart]) -> str:
    """One self-contained page: style, charts and the library that draws them; no network."""
    style = _resource("page.css")
    script = _library() if charts else ""
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src 'sha256-{_digest(script)}'",
            f"style-src 'sha256-{_digest(style)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    data = "".join(
        f'<script type="application/json" id="{escape(name)}">{_quoted(spec(chart))}</script>\n'
        for name, chart in charts.items()
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        f"{data}<script>{script}</script>\n</body>\n</html>\n"
    )


def figure(name: str) -> str:
    """The place of a chart."""
    return (
        f'<figure data-chart="{escape(name)}"><noscript>This chart needs JavaScript; '
        "it also lies in the folder plots as a PNG.</noscript></figure>"
    )


def section(heading: str, *parts: str) -> str:
    """A heading with what belongs under it; nothing where nothing does."""
    there = [part for part in parts if part]
    return f"<h2>{escape(heading)}</h2>\n" + "\n".join(there) if there else ""


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{_kind(kind)}>{escape(text)}</p>" if text else ""


def table(grid: Grid, *, marked: Sequence[str] = ()) -> str:
    """A grid as an HTML table; `marked` names the look of each row: strong, quiet or nothing."""
    if not grid.rows:
        return ""
    looks = ["right" if column.align == "right" else "" for column in grid.columns]
    head = "".join(
        f'<th scope="col"{_kind(look)}>{escape(column.header)}</th>'
        for column, look in zip(grid.columns, looks, strict=True)
    )
    body = ""
    for index, row in enumerate(grid.rows):
        kind = _kind(marked[index] if index < len(marked) else "")
        body += f"<tr{kind}>" + "".join(_cell(cell.text, look) for cell, look in zip(row, looks, strict=True))
        body += "</tr>\n"
    notes = "".join(paragraph(note, "note") for note in grid.notes)
    inner = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>"
    return f'<div class="wide"><table>{inner}</table></div>{notes}'


def pairs(rows: Iterable[tuple[str, Any]], *, kind: str = "") -> str:
    """A table of names and values, without those that have no value."""
    there = [(name, value) for name, value in rows if value not in (None, "", {}, [])]
    cells = "".join(
        f"<tr>{_cell(name, '')}{_cell(str(value), kind or 'words')}</tr>\n" for name, value in there
    )
    return f'<div class="wide"><table><tbody>{cells}</tbody></table></div>' if there else ""


def fold(summary: str, content: str) -> str:
    """Something long, closed until it is asked for."""
    return f"<details><summary>{escape(summary)}</summary>\n{content}</details>" if content else ""


def code(text: str) -> str:
    """Text as it is, in a box."""
    return f"<pre>{escape(text)}</pre>" if text else ""


def tiles(entries: Iterable[tuple[str, str, str]]) -> str:
    """The headline numbers: what, how it changed, from what to what."""
    boxes = "".join(
        f'<div class="tile"><div class="what">{escape(what)}</div><div class="how">{escape(how)}</div>'
        f'<div class="from">{escape(origin)}</div></div>'
        for what, how, origin in entries
    )
    return f'<div class="tiles">{boxes}</div>' if boxes else ""


def _cell(text: str, look: str) -> str:
    return f"<td{_kind(look or ('words' if len(text) > 40 else ''))}>{escape(text)}</td>"


def _kind(name: str) -> str:
    return f' class="{escape(name)}"' if name else ""


def _quoted(content: dict[str, Any]) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed in one piece, with the lines that draw the charts of a page."""
    bundle = vl_convert.javascript_bundle(_resource("page.js"))
    return str(bundle).replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _resource(name: str) -> str:
    return (files("kezuri.report") / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
