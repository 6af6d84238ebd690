import json
import shutil

import pytest
import torch

from kezuri.artifact.folder import RunFolder
from kezuri.artifact.journal import Journal
from kezuri.artifact.manifest import Manifest
from kezuri.core.errors import DataError, Interrupted, KezuriError, UsageError
from kezuri.model.portable import read_model
from kezuri.recipe.document import parse
from kezuri.recipe.listener import SilentListener
from kezuri.recipe.prepare import prepare
from kezuri.recipe.recipe import recipe_from
from kezuri.recipe.run import resume, run
from kezuri.report.reading import RunView
from kezuri.report.write import write_report
from kezuri.runtime.runners.onnxruntime import OnnxRuntime


class Hearing(SilentListener):
    def __init__(self):
        self.said, self.warned = [], []

    def say(self, text):
        self.said.append(text)

    def warn(self, text):
        self.warned.append(text)


def test_a_run_leaves_models_measurements_and_how_it_was_made(ended, recipe_text):
    folder, manifest = RunFolder(ended), Manifest(RunFolder(ended)).read()
    assert manifest["status"] == "finished" and manifest["answer"]["met"] and manifest["threads"] == 1
    assert ended.name == f"small-{manifest['fingerprint']}"
    assert folder.recipe_as_written.read_text() == recipe_text
    assert json.loads(folder.recipe.read_text())["steps"][1]["criterion"]["use"] == "pcas"
    assert sorted(manifest["files"]) == [
        f"models/{model}/{name}"
        for model in ("dense", "final")
        for name in ("model.onnx", "model.safetensors", "structure.json")
    ]
    assert not Manifest(folder).damaged()
    assert manifest["data"]["images"] == {"train": 58, "validation": 19, "test": 19}


def test_the_final_model_is_smaller_and_both_its_files_agree(ended):
    folder = RunFolder(ended)
    dense, final = (read_model(folder.model(name)).model for name in ("dense", "final"))
    sizes = [sum(p.numel() for p in model.parameters()) for model in (dense, final)]
    assert sizes[1] < 0.8 * sizes[0]
    images = torch.randn(3, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    answers = OnnxRuntime().prepare(folder.model("final") / "model.onnx").run(images.numpy())
    with torch.no_grad():
        assert torch.allclose(final(images), torch.from_numpy(answers), atol=1e-4)


def test_what_was_measured_of_the_dense_and_the_final_model(ended):
    rows = Journal(RunFolder(ended).measurements).read()
    for model in ("dense", "final"):
        found = {row.metric for row in rows if row.conditions.get("model") == model}
        assert found >= {"accuracy", "params", "macs", "size", "latency", "memory", "parity_agreement"}
    rounds = {row.conditions["round"] for row in rows if row.conditions.get("model") == "round"}
    assert rounds == {0, 1, 2}
    tested = [row for row in rows if row.conditions.get("split") == "test" and row.metric == "accuracy"]
    assert {row.conditions["stage"] for row in tested} == {"final"}  # the test images are used once


def test_its_report_shows_the_rounds(finished):
    page = write_report(finished)
    text = page.read_text(encoding="utf-8")
    assert "PCAS" in text or "pcas" in text
    assert {path.name for path in (finished / "plots").iterdir()} >= {"rounds.png", "layers.png"}
    assert [entry.round for entry in RunView.read(finished).rounds] == [0, 1, 2]


def test_a_finished_run_is_left_alone(finished):
    before = {
        path: path.stat().st_mtime_ns
        for path in finished.rglob("*.*")
        if path.is_file() and path.name != ".lock"
    }
    hearing = Hearing()
    assert resume(finished, listener=hearing).path == finished
    assert hearing.said == [f"{finished} is finished already"]
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_run_may_be_renamed_and_moved(finished, tmp_path):
    moved = tmp_path / "elsewhere" / "best one"
    moved.parent.mkdir()
    finished.rename(moved)
    assert resume(moved).path == moved


def test_weights_and_data_are_found_again_where_the_run_found_them(images, ended, recipe_text, tmp_path):
    near = tmp_path / "recipes"
    near.mkdir()
    shutil.copy(ended / "models" / "dense" / "model.safetensors", near / "w.safetensors")
    text = recipe_text.replace(f"'{images}'", f"'{images.name}'").replace(
        "{use: resnet8,", "{use: resnet8, weights: w.safetensors,"
    )
    prepared = prepare(recipe_from(parse(text)), data_root=images.parent, near=near, device="cpu")

    class Stopping(Hearing):
        def start(self, task, *, total, done):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="resume with: kezuri resume"):
        run(prepared, runs=tmp_path, listener=Stopping())
    path = tmp_path / prepared.run_name
    assert Manifest(RunFolder(path)).read()["status"] == "interrupted"
    with pytest.raises(Interrupted):  # and not: no weights, no data
        resume(path, listener=Stopping())
    (near / "w.safetensors").unlink()
    with pytest.raises(DataError, match="no weights"):
        resume(path)


def test_only_one_process_works_on_a_run(finished):
    import fcntl

    with (finished / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another process"):
            resume(finished)


def test_the_same_preparation_serves_two_runs(recipe_text, tmp_path):
    prepared = prepare(recipe_from(parse(recipe_text.replace("lr: 0.1", "lr: 1.0e+20", 1))), device="cpu")
    before = [weight.clone() for weight in prepared.model.parameters()]
    with pytest.raises(KezuriError, match="diverged"):
        run(prepared, runs=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(before, prepared.model.parameters(), strict=True))


def test_how_a_run_failed_is_in_its_manifest(recipe_text, tmp_path):
    prepared = prepare(recipe_from(parse(recipe_text.replace("lr: 0.1", "lr: 1.0e+20", 1))), device="cpu")
    with pytest.raises(KezuriError, match="diverged"):
        run(prepared, runs=tmp_path)
    manifest = Manifest(RunFolder(tmp_path / prepared.run_name)).read()
    assert manifest["status"] == "failed" and "diverged" in manifest["reason"]


def test_a_run_goes_on_with_the_threads_it_began_with(recipe_text, tmp_path):
    prepared = prepare(recipe_from(parse(recipe_text.replace("lr: 0.1", "lr: 1.0e+20", 1))), device="cpu")
    before = torch.get_num_threads()
    try:
        with pytest.raises(KezuriError, match="diverged"):
            run(prepared, runs=tmp_path, threads=1)
        hearing = Hearing()
        with pytest.raises(KezuriError, match="diverged"):
            run(prepared, runs=tmp_path, threads=2, listener=hearing)
        assert hearing.warned == ["this run began with 1 threads and goes on with them"]
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
