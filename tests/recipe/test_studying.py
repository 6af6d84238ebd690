"""A small study from start to table, stopped on the way."""

import json
import threading
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace

import pytest

from kezuri.artifact.folder import StudyFolder
from kezuri.artifact.lock import locked
from kezuri.core.errors import CorruptArtifact, Interrupted, UsageError
from kezuri.recipe.listener import SilentListener
from kezuri.recipe.model_choice import ModelChoice
from kezuri.recipe.study import Plan
from kezuri.recipe.studying import layers_of, run_study
from kezuri.report.findings import findings
from kezuri.report.study import StudyView
from kezuri.report.study_tables import refusals_table, study_data, study_table
from kezuri.report.write import write_report


class Stopping(SilentListener):
    """Ctrl-C in the second training."""

    def __init__(self):
        self.said, self.begun = [], 0

    def start(self, task, *, total, done):
        self.begun += 1

    def advance(self, steps, figures):
        if self.begun == 2:
            raise KeyboardInterrupt

    def say(self, text):
        self.said.append(text)


class Hearing(SilentListener):
    def __init__(self):
        self.trainings = 0

    def start(self, task, *, total, done):
        self.trainings += 1


@pytest.fixture(scope="module")
def plan(images):
    return Plan(
        data=str(images),
        student=ModelChoice("plain2", {"width": 0.25}),
        teacher=ModelChoice("plain2", {"width": 0.5}),
        epochs=4,
        seeds=1,
        methods=("chain",),
        batch_size=8,
        lr=0.005,
    )


@pytest.fixture(scope="module")
def stopped(plan, tmp_path_factory):
    """A study that was stopped in its second training, and what it said."""
    folder, listener = tmp_path_factory.mktemp("study"), Stopping()
    with pytest.raises(Interrupted, match="the same command goes on"):
        run_study(plan, folder, device="cpu", listener=listener, threads=1)
    return StudyFolder(folder), listener, StudyView.read(folder)


@pytest.fixture(scope="module")
def done(plan, stopped):
    """The same study gone on with; the student, which was finished, is left as it is."""
    folder, _, _ = stopped
    student = next(folder.runs.glob("student-*")) / "measurements.jsonl"
    before = student.stat().st_mtime_ns
    run_study(plan, folder.path, device="cpu", threads=1)
    assert student.stat().st_mtime_ns == before
    return folder


def test_what_was_done_before_the_stop_stands(stopped):
    _, listener, view = stopped
    assert listener.said[0].startswith("8 runs; about ")
    assert [line.split()[0] for line in listener.said[1:]] == ["1/8"]
    assert "min left" in listener.said[1]
    assert {row.name: row.status for row in view.rows if row.condition} == {"student": "finished"}
    assert study_table(view).text().count("not started") == 7
    assert [one.verdict for one in findings(view)] == [*["not measured"] * 3, "not measured yet"]


def test_it_goes_on_and_ends(done):
    view = StudyView.read(done.path)
    assert [row.status for row in view.rows].count("finished") == 8 and not view.failed


def test_shared_weights_are_trained_once(done):
    students = {
        json.loads(path.read_text())["model"]["weights"] for path in done.runs.glob("*-*/recipe.json")
    }
    assert len(students - {None}) == 1
    assert len(list((done.path / "weights").iterdir())) == 2


def test_the_chain_is_smaller_and_every_row_is_measured(done):
    view = StudyView.read(done.path)
    student, chain = view.row("student"), view.row("distill-prune-quantize")
    assert chain.condition.size.value < 0.4 * student.condition.size.value
    rows = json.loads(study_data(view).json())
    measured = [row for row in rows if row["status"] == "finished"]
    for row in measured:
        assert all(
            row[key] is not None for key in ("accuracy", "size", "packed", "efficiency", "latency", "params")
        )
    assert any(row["front"] for row in measured)


def test_what_is_refused_is_shown_with_the_reason(plan, monkeypatch, tmp_path):
    def refuse(recipe):
        if recipe.name == "ptq":
            raise UsageError("it makes no sense")

    monkeypatch.setattr("kezuri.recipe.study.check_order", refuse)
    run_study(replace(plan, methods=("ptq",), epochs=1), tmp_path, device="cpu", threads=1)
    said = refusals_table(StudyView.read(tmp_path)).text()
    assert said.count("it makes no sense") == 1 and "ptq" in said


def test_the_report_lies_in_the_folder(done):
    page = write_report(done.path).read_text(encoding="utf-8")
    assert "quantize-distill-prune" in page and "http://" not in page.partition("<script")[0]
    assert (
        done.table("table", "csv")
        .read_text()
        .startswith("name,method,epochs,seeds,accuracy,accuracy_sd,change,")
    )
    assert {path.name for path in done.plots.iterdir()} == {"methods.png", "pareto.png", "latency.png"}


def statuses(folder):
    cells = json.loads(folder.record.read_text())["cells"]
    return {(cell["name"], cell["seed"]): cell["status"] for cell in cells}


def test_a_cell_that_another_process_is_at_is_come_back_to(plan, done):
    before, listener = statuses(done), Stopping()
    with ExitStack() as stack:
        stack.enter_context(locked(next(done.runs.glob("student-*"))))
        threading.Timer(3, stack.close).start()
        run_study(plan, done.path, device="cpu", listener=listener, threads=1)
    assert statuses(done) == before
    names = [line.split()[1].rstrip(",") for line in listener.said]
    assert names[-1] == "student" and set(Counter(names).values()) == {1}


def test_what_is_finished_stays_so_when_it_is_begun_again_and_stopped(plan, done):
    wider = replace(plan, seeds=2)
    listener = Stopping()
    listener.begun = 1
    with pytest.raises(Interrupted):
        run_study(wider, done.path, device="cpu", listener=listener, threads=1)
    after = statuses(done)
    assert [status for (_, seed), status in after.items() if seed == 0].count("finished") == 8
    assert after["student", 1] == "not started"
    view = StudyView.read(done.path)
    assert view.plan["seeds"] == 2 and view.row("distill-prune-quantize") is not None


def test_fewer_methods_and_seeds_take_nothing_away(plan, done):
    before = statuses(done)
    run_study(replace(plan, methods=("baseline",), seeds=1), done.path, device="cpu", threads=1, workers=2)
    after = statuses(done)
    assert before.items() <= after.items() and after["student-longer", 0] == "finished"
    assert json.loads(done.record.read_text())["plan"]["methods"] == ["baseline", "chain"]


def test_other_settings_under_the_same_name_are_refused(plan, done):
    before = done.record.read_bytes()
    with pytest.raises(
        UsageError, match=r"holds a study with epochs 4; this one has epochs 5: give it .*--name"
    ):
        run_study(replace(plan, epochs=5), done.path, device="cpu")
    assert done.record.read_bytes() == before


def test_a_record_that_is_no_study_is_said(plan, tmp_path):
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(CorruptArtifact, match="does not hold a study"):
        run_study(plan, tmp_path, device="cpu")


def test_a_device_that_is_not_there_is_said_before_any_work(plan, tmp_path):
    with pytest.raises(UsageError, match="no device 'foo' on this machine"):
        run_study(plan, tmp_path / "none", device="foo")
    assert not (tmp_path / "none").exists()


def test_again_does_nothing(plan, done):
    listener = Hearing()
    run_study(plan, done.path, device="cpu", listener=listener, threads=1)
    assert listener.trainings == 0


def test_layers_are_told_apart():
    from kezuri.model.load import load_model

    layers = layers_of(load_model("lenet5", classes=10, image_shape=(1, 28, 28)))
    assert layers.conv == ("conv1", "conv2") and layers.dense == ("fc1", "fc2", "fc3")
