"""The page must work with the network cut: its policy says what it may load, and nothing asks for more."""

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from kezuri.artifact.journal import Journal
from kezuri.core.errors import DataError
from kezuri.core.measurement import Measurement
from kezuri.report.write import write_comparison, write_report

MakeRun = Callable[..., Path]
CANARY = "<img src=x onerror=alert(1)></script><script>alert(2)</script>\"'&{{7*7}}<!--"
LOADS = {
    "src",
    "href",
    "srcset",
    "data",
    "action",
    "formaction",
    "poster",
    "background",
    "ping",
    "xlink:href",
}


class Elements(HTMLParser):
    """The elements of a page as a browser sees them, with the text of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inner: list[tuple[str, dict[str, str | None], str]] = []
        self._open: tuple[str, dict[str, str | None]] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._open = (tag, dict(attrs)) if tag in ("script", "style") else None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.inner.append((*self._open, data))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._open = None

    def text(self, tag: str, kind: str | None = None) -> list[str]:
        return [text for name, said, text in self.inner if name == tag and said.get("type") == kind]


def _policy(page: Elements) -> dict[str, list[str]]:
    (content,) = [said["content"] for tag, said in page.found if said.get("http-equiv")]
    assert content is not None
    rules = [rule.split() for rule in content.split(";")]
    return {rule[0]: rule[1:] for rule in rules}


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _addresses(value: Any) -> list[str]:
    """Every place in a specification where Vega would load something."""
    if isinstance(value, dict):
        own = [str(value[key]) for key in ("url", "href", "$schema") if key in value]
        return own + [found for inner in value.values() for found in _addresses(inner)]
    return [found for inner in value for found in _addresses(inner)] if isinstance(value, list) else []


@pytest.fixture
def report(make_run: MakeRun) -> str:
    return write_report(make_run()).read_text(encoding="utf-8")


def test_the_policy_allows_this_style_and_this_script_and_no_network(report: str) -> None:
    page = Elements(report)
    policy = _policy(page)
    (style,), (script,) = page.text("style"), page.text("script")
    assert policy["default-src"] == ["'none'"]
    assert policy["script-src"] == [_digest(script)]
    assert policy["style-src"] == [_digest(style)]
    assert policy["img-src"] == ["data:"]
    assert set(policy) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}
    # A policy only holds for what comes after it.
    assert [tag for tag, _ in page.found][:4] == ["html", "head", "meta", "meta"]


def test_no_element_style_or_chart_asks_for_an_address(report: str) -> None:
    page = Elements(report)
    assert len(page.found) > 200
    asked = [(tag, name) for tag, said in page.found for name in said if name in LOADS]
    assert asked == []
    assert not {tag for tag, _ in page.found} & {"link", "img", "iframe", "object", "embed", "base", "form"}
    assert not re.search(r"url\(|@import|image-set", page.text("style")[0])
    specs = page.text("script", "application/json")
    assert len(specs) == 4
    assert not [address for text in specs for address in _addresses(json.loads(text))]
    assert "http" not in "".join(specs)


def test_the_page_is_small_enough_to_mail(report: str) -> None:
    assert len(report.encode()) < 1_500_000
    assert report.count("vega-embed") < 50


def test_a_page_tells_the_answer_first_and_how_to_get_it_again(report: str) -> None:
    order = [
        "<h1>Parameters −83 % at −0.4 points</h1>",
        "5.9× fewer parameters at −0.4 points",
        "Dense against compressed",
        "All layers, with reasons",
        "Decisions",
        "kezuri run recipe.yaml",
        "Environment",
        "measurements.jsonl",
    ]
    places = [report.index(words) for words in order]
    assert places == sorted(places)


def test_words_of_the_user_never_become_markup(make_run: MakeRun) -> None:
    path = make_run(
        name=CANARY, classes=(CANARY, "b"), layer_name=CANARY.replace("{{7*7}}", "") + "{block}{index}{part}"
    )
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["answer"] = {"text": CANARY, "met": False, "stop": "floor", "stop_why": CANARY}
    manifest["decisions"][0]["why"] = CANARY
    manifest["files"][CANARY] = CANARY
    manifest["packages"][CANARY] = CANARY
    manifest["data"][CANARY] = {CANARY: [CANARY]}
    (path / "manifest.json").write_text(json.dumps(manifest))
    text = write_report(path).read_text(encoding="utf-8")
    page = Elements(text)
    assert text.count("onerror") > 10
    assert "img" not in [tag for tag, _ in page.found]
    assert not [name for _, said in page.found for name in said if name.startswith("on")]
    assert len([tag for tag, _ in page.found if tag == "script"]) == 5
    assert _policy(page)["script-src"] == [_digest(page.text("script")[0])]
    for chart in page.text("script", "application/json"):
        assert "<" not in chart
        json.loads(chart)


def test_an_unfinished_run_has_a_page_that_says_so(make_run: MakeRun) -> None:
    text = write_report(make_run(status="interrupted", rounds=2, rolled_back=())).read_text()
    assert "This run has not finished (interrupted)" in text
    assert "kezuri resume ." in text
    assert ">Layers<" not in text


def test_a_run_that_never_started_has_a_page_too(make_run: MakeRun) -> None:
    path = make_run()
    (path / "manifest.json").unlink()
    (path / "measurements.jsonl").unlink()
    text = write_report(path).read_text()
    assert "not finished (not started)" in text
    assert "data-chart" not in text


def test_writing_a_report_leaves_page_and_pictures_and_nothing_half(make_run: MakeRun) -> None:
    path = make_run()
    assert write_report(path) == path / "report.html"
    assert sorted(p.name for p in (path / "plots").iterdir()) == [
        "damage.png",
        "layers.png",
        "pareto.png",
        "rounds.png",
    ]
    assert not list(path.rglob("*.part"))
    with pytest.raises(DataError, match="is not a run"):
        write_report(path.parent)


def test_a_comparison_has_a_page_and_a_picture(make_run: MakeRun, tmp_path: Path) -> None:
    folders = [make_run("a", name=CANARY), make_run("b", name="steep", lr_ratio=0.5, rounds=7)]
    out = write_comparison(folders, tmp_path / "out" / "comparison.html", keep=-0.01)
    page = Elements(out.read_text(encoding="utf-8"))
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert "img" not in [tag for tag, _ in page.found]
    assert _policy(page)["default-src"] == ["'none'"]
    assert "steep" in out.read_text(encoding="utf-8")


def test_bits_chosen_under_a_budget_are_drawn_and_listed(make_run: MakeRun) -> None:
    folder = make_run("r")
    plain = write_report(folder).read_text()
    assert not (folder / "plots" / "bits.png").exists() and "<h2>Bits" not in plain
    options = {"conv1": {"bits": 8, "sparsity": 0.0}, "conv<2>": {"bits": 3, "sparsity": 0.5}}
    point = {"size": 2e5, "macs": 1e6, "latency": None, "loss": 0.1, "options": options}
    content = {"metric": "size", "front": [point], "uniform": [{**point, "name": "8 bits"}], "chosen": point}
    (folder / "allocation.json").write_text(json.dumps(content))
    page = write_report(folder).read_text()
    assert (folder / "plots" / "bits.png").read_bytes().startswith(b"\x89PNG")
    assert "conv&lt;2&gt;" in page and "holds 8 bits for each weight" in page


def test_where_the_time_of_a_file_of_integers_goes_is_listed(make_run: MakeRun) -> None:
    folder = make_run("r")
    assert "<h2>Kernels" not in write_report(folder).read_text()
    said = {"model": "final", "kernel": "QLinear<Conv>", "kernels": 19, "group": "integers"}
    row = Measurement("time_share", 0.875, "fraction", conditions=said)
    Journal(folder / "measurements.jsonl").record("final", [row])
    page = write_report(folder).read_text()
    assert "QLinear&lt;Conv&gt;" in page and "by the profile of ONNX Runtime" in page and "87.5" in page


@pytest.mark.parametrize(
    ("answer", "verdict", "banner"),
    [
        ({"met": True, "confirmed": True}, "Goal met: ", False),
        ({"met": True, "confirmed": None}, "Goal met: ", False),
        ({"met": True, "confirmed": False}, "Goal not confirmed on test: ", True),
        ({"met": False, "confirmed": False}, "Goal not met: ", False),
    ],
)
def test_the_page_says_where_the_goal_holds(
    make_run: MakeRun, answer: Any, verdict: str, banner: bool
) -> None:
    path = make_run()
    manifest = json.loads((path / "manifest.json").read_text())
    told = "kept on the 50 validation images it chose by (+0.00); on the 450 test images −4.89 points"
    manifest["answer"] = {**manifest["answer"], "floor": told, **answer}
    (path / "manifest.json").write_text(json.dumps(manifest))
    page = write_report(path).read_text(encoding="utf-8")
    assert verdict in page and f"The floor is {told}." in page
    assert ("Not confirmed on test: the floor is kept on the 50" in page) == banner
