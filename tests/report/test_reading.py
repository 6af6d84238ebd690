from collections.abc import Callable
from pathlib import Path

import pytest

from kezuri.core.errors import CorruptArtifact, DataError
from kezuri.report.reading import RunView
from kezuri.report.tables import checks_table

MakeRun = Callable[..., Path]


def test_a_finished_run_tells_its_rounds_layers_and_answer(make_run: MakeRun) -> None:
    run = RunView.read(make_run())
    turns = [(r.round, r.attempt, r.verdict) for r in run.rounds]
    assert turns[0] == (0, 0, "dense")
    assert turns[4:6] == [(4, 0, "rolled back"), (4, 1, "accepted")]
    assert run.rounds[4].why.startswith("validation accuracy 91.0 %")
    assert run.rounds[5].rate == 0.15
    assert run.floor == pytest.approx(0.9312 - 0.01)
    assert run.split == "test"
    assert run.size_format == "onnx"
    assert (run.layers[0].state, run.layers[1].state) == ("blocked", "cut")
    assert run.damage[0] == ("t-shirt", 0.031)
    assert run.answer["met"] is True


def test_a_killed_run_shows_the_last_accepted_round(make_run: MakeRun) -> None:
    run = RunView.read(make_run(status="running", rounds=3, rolled_back=(2, 3)))
    last = [r for r in run.rounds if r.stands][-1]
    final = run.final("params")
    assert final is not None
    assert final.value == last.params
    assert final.conditions["attempt"] == 1
    assert run.split == "validation"
    assert not run.finished
    assert run.layers == ()


def test_a_round_that_was_not_accepted_never_counts_as_the_result(make_run: MakeRun) -> None:
    path = make_run(status="running", rounds=1, rolled_back=())
    journal = path / "measurements.jsonl"
    journal.write_text(journal.read_text().replace('"accepted": true, "rate"', '"accepted": false, "rate"'))
    assert RunView.read(path).final("params") is None


def test_a_run_that_only_has_a_recipe_can_be_read(make_run: MakeRun) -> None:
    path = make_run()
    (path / "manifest.json").unlink()
    (path / "measurements.jsonl").unlink()
    run = RunView.read(path)
    assert (run.status, run.rounds, run.layers, run.seconds) == ("not started", (), (), None)
    assert run.final("accuracy") is None


def test_layers_come_from_measurements_where_the_manifest_has_no_cuts(make_run: MakeRun) -> None:
    path = make_run()
    whole = RunView.read(path)
    bare = RunView(path, whole.recipe, {}, whole.measurements)
    assert [(layer.name, layer.before, layer.after) for layer in bare.layers] == [
        (layer.name, layer.before, layer.after) for layer in whole.layers
    ]


def test_the_outline_of_a_run_gives_the_same_summary(make_run: MakeRun) -> None:
    path = make_run()
    whole, outline = RunView.read(path), RunView.read(path, details=False)
    assert len(outline.measurements) < len(whole.measurements)
    assert outline.rounds == whole.rounds
    for metric in ("accuracy", "params", "macs", "size", "latency"):
        assert outline.final(metric) == whole.final(metric) is not None


def test_a_folder_without_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a run \(it has no recipe.json\)"):
        RunView.read(tmp_path)


@pytest.mark.parametrize("details", [True, False])
def test_a_damaged_line_is_named(make_run: MakeRun, details: bool) -> None:
    path = make_run()
    journal = path / "measurements.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:3], lines[3][:20], *lines[4:]]) + "\n")
    with pytest.raises(CorruptArtifact, match=r"measurements.jsonl:4: not a measurement"):
        RunView.read(path, details=details)


def test_a_recipe_that_is_no_object_is_corrupt(make_run: MakeRun) -> None:
    path = make_run()
    (path / "recipe.json").write_text("[1, 2]")
    with pytest.raises(CorruptArtifact, match="does not hold a JSON object"):
        RunView.read(path)


def test_a_real_run_has_the_proof_of_its_rounds(ended: Path) -> None:
    run = RunView.read(ended)
    errors = [m.value for m in run.measurements if m.metric == "proof_error" and m.conditions["accepted"]]
    assert run.proof is not None and run.proof.value == max(errors) < 1e-5
    assert any("cut model against masked model" in row[0].text for row in checks_table(run).rows)
