import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from kezuri.core.measurement import Measurement
from kezuri.report.compare import compare
from kezuri.report.reading import RunView
from kezuri.report.tables import answer_table, checks_table, comparison_table

MakeRun = Callable[..., Path]


def test_the_answer_sets_dense_against_compressed(make_run: MakeRun) -> None:
    rows = {
        row[0].text: [cell.text for cell in row[1:]] for row in answer_table(RunView.read(make_run())).rows
    }
    assert rows["accuracy, test"] == ["92.92 % (92.4–93.4)", "92.52 % (92.0–93.0)", "−0.4 points"]
    assert rows["parameters"] == ["272,474", "45,794", "5.9× smaller"]
    assert rows["ONNX file, compressed (xz)"][2] == "5.9× smaller"
    assert rows["latency, ONNX Runtime, 1 thread"][1:] == ["0.652 ms (0.626–0.736)", "2.9× faster"]
    assert "latency, ONNX Runtime, all threads" in rows
    assert rows["efficiency (accuracy per size)"][2] == "5.9× more"


def test_missing_metrics_are_dashes_and_absent_ones_have_no_row(make_run: MakeRun) -> None:
    run = RunView.read(make_run(status="interrupted"))
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in answer_table(run).rows}
    assert rows["latency, ONNX Runtime, 1 thread"][1:] == ["–", "–"]
    bare = RunView(run.path, run.recipe, {}, ())
    assert answer_table(bare).rows == ()
    assert checks_table(bare).rows == ()


def test_zeros_have_a_row_where_weights_are_masked(make_run: MakeRun) -> None:
    run = RunView.read(make_run())
    said = {"model": "final", "of": "weights"}
    zeros = Measurement("sparsity", 0.9437, "fraction", samples=1000, conditions=said)
    rows = answer_table(replace(run, measurements=(*run.measurements, zeros))).rows
    assert [[c.text for c in row] for row in rows if "zeros" in row[0].text] == [
        ["zeros among the weights that may be removed", "–", "94.37 %", "–"]
    ]
    assert not any("zeros" in row[0].text for row in answer_table(run).rows)


def test_checks_tell_proof_and_parity(make_run: MakeRun) -> None:
    rows = [[cell.text for cell in row] for row in checks_table(RunView.read(make_run())).rows]
    words = (
        "cut model against masked model, largest relative error of the rounds that stand, on 4 random batches"
    )
    assert [words, "3.1e−07"] in rows  # not the 9e−07 of the attempt that was rolled back
    assert ["predictions that differ from the dense model's", "3.10 %"] in rows


def test_the_comparison_is_the_table_engineers_make_by_hand(make_run: MakeRun) -> None:
    folders = [make_run(f"a{seed}", name="gentle", rate=0.15, seed=seed, rounds=8) for seed in (0, 1)]
    folders.append(make_run("b", name="steep", rate=[0.5, 0.3], lr_ratio=0.5))
    grid = comparison_table(compare(folders, keep=-0.01))
    rows = json.loads(grid.json())
    assert [row["condition"] for row in rows] == ["gentle", "steep"]
    assert [row["rate"] for row in rows] == [0.15, [0.5, 0.3]]
    assert [row["runs"] for row in rows] == [2, 1]
    assert rows[0]["front"] == "best"
    texts = {column.key: cell.text for column, cell in zip(grid.columns, grid.rows[1], strict=True)}
    assert texts["rate"] == "50, 30"
    assert texts["size"] == "189"
    assert texts["hours"] == "4.0"
    assert "±" in grid.text()


def test_the_comparison_counts_zeros_where_a_run_is_masked(make_run: MakeRun) -> None:
    folders = [make_run("a", name="cut"), make_run("b", name="masked", rate=0.2)]
    assert "zeros" not in [column.key for column in comparison_table(compare(folders)).columns]
    masked = {"model": "final", "stage": "final", "of": "weights"}
    zeros = Measurement("sparsity", 0.9741, "fraction", conditions=masked)
    with (folders[1] / "measurements.jsonl").open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(zeros.to_json()) + "\n")
    grid = comparison_table(compare(folders))
    rows = {row["condition"]: row for row in json.loads(grid.json())}
    assert rows["cut"]["zeros"] is None and rows["masked"]["zeros"] == 0.9741 and "97.41" in grid.text()
