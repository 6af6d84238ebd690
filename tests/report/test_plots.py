import io
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kezuri.report.compare import compare
from kezuri.report.pareto import pareto_chart
from kezuri.report.plots import damage_chart, finding, layers_chart, png, spec
from kezuri.report.reading import RunView
from kezuri.report.rounds_chart import rounds_chart

MakeRun = Callable[..., Path]


def _rows(content: Any, field: str) -> list[dict[str, Any]]:
    """The rows of a specification that have this field, each once."""
    found: dict[str, dict[str, Any]] = {}
    inner = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    for part in inner:
        found |= {json.dumps(row): row for row in _rows(part, field)}
    for row in content.get("values", []) if isinstance(content, dict) else []:
        if isinstance(row, dict) and field in row:
            found[json.dumps(row)] = row
    return list(found.values())


def test_the_title_says_the_finding(make_run: MakeRun) -> None:
    run = RunView.read(make_run())
    assert finding(run) == "Parameters −83 % at −0.4 points"
    chart = rounds_chart(run)
    assert chart is not None
    assert spec(chart)["title"]["text"] == f"{finding(run)} on test images"


def test_rolled_back_attempts_are_marked_and_kept_out_of_the_line(make_run: MakeRun) -> None:
    chart = rounds_chart(RunView.read(make_run()))
    assert chart is not None
    upper, lower = spec(chart)["vconcat"]
    rows = _rows(spec(chart), "accuracy")
    lost = [row for row in rows if row["series"] == "rolled back"]
    assert [(row["round"], row["why"][:19]) for row in lost] == [(4, "validation accuracy")]
    lines = [layer for panel in (upper, lower) for layer in panel["layer"] if layer["mark"]["type"] == "line"]
    assert len(lines) == 2
    assert all("series" in json.dumps(line["transform"]) for line in lines)


def test_bars_begin_at_zero_and_blocked_layers_say_why(make_run: MakeRun) -> None:
    run = RunView.read(make_run())
    chart = layers_chart(run.layers)
    assert chart is not None
    rows = _rows(spec(chart), "layer")
    assert min(row["from"] for row in rows) == 0
    blocked = [row for row in rows if row["part"] == "blocked"]
    assert len(blocked) == 2
    assert all("classes must stay" in row["reason"] for row in blocked)
    for layer in run.layers:
        parts = [row for row in rows if row["layer"] == layer.name]
        assert sum(row["to"] - row["from"] for row in parts) == layer.before


def test_only_the_classes_hit_hardest_are_drawn_and_said_so() -> None:
    chart = damage_chart([(f"class {i}", 0.1 - i / 1000) for i in range(100)])
    assert chart is not None
    assert "the 30 hit hardest of 100" in spec(chart)["title"]["subtitle"]
    assert len(_rows(spec(chart), "class")) == 30


def test_nothing_to_draw_is_no_chart(make_run: MakeRun) -> None:
    run = RunView.read(make_run())
    bare = RunView(run.path, run.recipe, {}, ())
    assert rounds_chart(bare) is None
    assert layers_chart(bare.layers) is None
    assert damage_chart(bare.damage) is None


@pytest.mark.parametrize("rounds", [1, 12])
def test_charts_become_pictures(make_run: MakeRun, rounds: int) -> None:
    run = RunView.read(make_run(rounds=rounds, layers=60 if rounds > 1 else 2))
    for chart in (rounds_chart(run), layers_chart(run.layers), damage_chart(run.damage)):
        assert chart is not None
        assert "$schema" not in spec(chart)
        with Image.open(io.BytesIO(png(chart))) as image:
            assert image.width > 1000
            assert len(image.convert("RGB").resize((64, 64)).getcolors(4096)) > 20


def test_labels_of_the_front_lie_inside_and_apart(make_run: MakeRun) -> None:
    folders = [
        make_run(
            f"r{i}",
            name=f"a rather long name {i}",
            rounds=2 + i,
            rolled_back=(),
            drop=0.002 * i,
            lr_ratio=i / 9,
        )
        for i in range(6)
    ]
    comparison = compare(folders, keep=-0.008)
    chart = pareto_chart(comparison)
    assert chart is not None
    plain = spec(chart)
    assert plain["title"]["text"] == comparison.headline()
    labels = [row for row in _rows(plain, "words") if row["words"][0] == "a"]
    assert comparison.best is not None
    assert comparison.best.name in [row["words"] for row in labels]
    assert len(labels) == 6
    encodings = [layer["encoding"] for layer in plain["layer"]]
    (left, right), (low, high) = (
        next(e[axis]["scale"]["domain"] for e in encodings if "domain" in e.get(axis, {}).get("scale", {}))
        for axis in "xy"
    )
    boxes = [
        ((row["cost"] - left) / (right - left) * 680, (high - row["accuracy"]) / (high - low) * 380)
        for row in labels
    ]
    assert all(0 <= x <= 680 and 0 <= y <= 380 for x, y in boxes)
    assert all(abs(x - u) >= 115 or abs(y - v) >= 14 for (x, y), (u, v) in combinations(boxes, 2))
    kinds = [row["kind"] for row in _rows(plain, "kind")]
    assert kinds.count("answer") == 1


def test_a_floor_far_below_the_data_is_left_out(make_run: MakeRun) -> None:
    assert _rows(spec(rounds_chart(RunView.read(make_run("held")))), "floor")
    for number, allowed in enumerate((-0.99, -0.4)):
        run = RunView.read(make_run(f"lax{number}", goal={"objective": "smallest", "accuracy": allowed}))
        assert not _rows(spec(rounds_chart(run)), "floor")
        assert (run.floor is None) == (allowed < -0.5)
    folders = [make_run(f"far{i}", name=f"far {i}", rounds=2 + i) for i in range(2)]
    assert not _rows(spec(pareto_chart(compare(folders, keep=-0.4))), "floor")
    words = [row["words"] for row in _rows(spec(pareto_chart(compare(folders, keep=-0.01))), "words")]
    assert any(isinstance(word, list) and word[0] == "floor" for word in words)


def test_what_later_steps_made_of_the_last_round_is_a_point_too(make_run: MakeRun) -> None:
    plain = RunView.read(make_run("plain"))

    def later(row: Any) -> Any:
        worse = row.metric == "accuracy" and row.conditions.get("model") == "final"
        return replace(row, value=row.value - 0.03) if worse else row

    chained = replace(plain, measurements=tuple(map(later, plain.measurements)))
    for run, drawn in ((chained, 1), (plain, 0)):
        chart = spec(rounds_chart(run))
        final = [row for row in _rows(chart, "series") if row["series"] == "final"]
        assert len([row for row in final if "accuracy" in row]) == drawn
        assert all(row["round"] == 6 for row in final)
        assert isinstance(chart["title"]["subtitle"], list) == bool(drawn)


def test_a_run_that_only_quantized_is_told_by_its_file(make_run: MakeRun) -> None:
    run = RunView.read(make_run(rounds=1))

    def quantized(row: Any) -> Any:
        if row.conditions.get("model") != "final":
            return row
        if row.metric == "params":
            return replace(row, value=272_474)
        before = run.dense(
            row.metric, **{k: row.conditions[k] for k in ("format", "threads") if k in row.conditions}
        )
        if row.metric in ("size", "latency") and before is not None:
            return replace(row, value=before.value / {"size": 3.5, "latency": 0.5}[row.metric])
        return row

    rows = tuple(map(quantized, run.measurements))
    assert finding(replace(run, measurements=rows)) == "File 3.5× smaller, 2.0× slower at −0.4 points"


def test_the_answer_is_drawn_last_and_largest(make_run: MakeRun) -> None:
    folders = [
        make_run(f"c{i}", name=f"c{i}", rounds=1 + i % 3, rolled_back=(), drop=0.001 * i) for i in range(6)
    ]
    comparison = compare(folders, keep=-0.003)
    assert comparison.best is not None
    marks = [layer for layer in spec(pareto_chart(comparison))["layer"] if layer["mark"]["type"] == "point"]
    kinds = [row["kind"] for row in _rows(spec(pareto_chart(comparison)), "kind")]
    order = ["not finished", "beaten", "on the front", "answer"]
    assert kinds == sorted(kinds, key=order.index) and kinds[-1] == "answer"
    assert marks[-1]["mark"]["size"] > 2 * marks[0]["mark"]["size"]
    assert "== 'answer'" in json.dumps(marks[-1]["transform"])
