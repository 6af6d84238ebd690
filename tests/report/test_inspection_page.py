import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from kezuri.artifact.inspection import Inspection
from kezuri.report.inspection_page import inspection_page

from .test_inspection import small

VOID = {"meta", "br", "img", "link", "input"}


class Reader(HTMLParser):
    """Rows by id, styles and scripts, and whether every element ends where it should."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: dict[str, str] = {}
        self.inside: dict[str, list[str]] = {"style": [], "script": []}
        self.addresses: list[str] = []
        self.policy = self._row = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert "style" not in given and not any(name.startswith("on") for name in given)
        self.addresses += [str(given[name]) for name in ("src", "href") if name in given]
        if tag == "meta" and given.get("http-equiv"):
            self.policy = str(given["content"])
        if tag == "tr" and given.get("id"):
            self._row = str(given["id"])
            self.rows[self._row] = ""
        if tag in self.inside:
            self.inside[tag].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element of the drawing that holds nothing."""

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        self._row = "" if tag == "tr" else self._row

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in self.inside:
            self.inside[self._open[-1]][-1] += data
        if self._row:
            self.rows[self._row] += f"{data} "


@pytest.mark.parametrize(
    "inspection", [small(), small(latency=None, timed=""), small(couplings=(), layers=())]
)
def test_the_page_holds_every_coupling(inspection: Inspection) -> None:
    page = Reader(inspection_page(inspection))
    assert set(page.rows) == {f"coupling-{at}" for at in range(len(inspection.couplings))}
    for at, one in enumerate(inspection.couplings):
        row = page.rows[f"coupling-{at}"]
        assert one.name in row and one.state in row and (one.reason or "") in row
        assert all(touch.layer in row for touch in (*one.writes, *one.reads))


def test_what_was_measured_comes_first() -> None:
    ids = re.findall(r'<tr id="coupling-(\d+)"', inspection_page(small()))
    assert ids[0] == "1" and len(ids) == 4


def test_the_page_needs_no_network_and_runs_only_its_own_code() -> None:
    page = Reader(inspection_page(small()))
    assert all(address.startswith("#") for address in page.addresses)
    for tag, kind in (("style", "style-src"), ("script", "script-src")):
        for content in page.inside[tag]:
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert f"sha256-{digest}" in page.policy.partition(kind)[2].partition(";")[0]
    assert len(page.inside["style"]) == 2 and "prefers-color-scheme: dark" in page.inside["style"][0]


def test_names_cannot_become_markup() -> None:
    text = inspection_page(small())
    assert "<b>&<" not in text and "&lt;b&gt;&amp;" in text
    assert "\x1b" not in text
