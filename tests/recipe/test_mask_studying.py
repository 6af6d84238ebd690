"""A small study of mask searches from start to page: stopped, gone on with, and side by side."""

import json
from dataclasses import replace

import pytest
import safetensors.torch

from kezuri.artifact.folder import MaskStudyFolder
from kezuri.core.errors import DataError, Interrupted, UsageError
from kezuri.prune.criteria.taylor import Taylor
from kezuri.prune.fitness import MaskFitness
from kezuri.prune.searchers.genetic import Genetic
from kezuri.prune.searchers.magnitude import Magnitude
from kezuri.prune.searchers.random import RandomSearch
from kezuri.recipe.listener import SilentListener
from kezuri.recipe.mask_study import MaskPlan
from kezuri.recipe.mask_studying import run_mask_study
from kezuri.recipe.model_choice import ModelChoice
from kezuri.report.mask_findings import headline
from kezuri.report.mask_study import MaskStudyView


class Hearing(SilentListener):
    """Hears what begins; Ctrl-C in the begun task of this number."""

    def __init__(self, stop_in=None):
        self.said, self.begun, self.stop_in = [], [], stop_in

    def say(self, text):
        self.said.append(text)

    def start(self, task, *, total, done):
        self.begun.append(task)

    def advance(self, steps, figures):
        if len(self.begun) == self.stop_in:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def plan(images):
    return MaskPlan(
        model=ModelChoice("plain2", {"width": 0.25}),
        data=str(images),
        searchers={
            "genetic": Genetic(population=8),
            "random": RandomSearch(batch=8),
            "magnitude": Magnitude(),
        },
        sparsities=(0.8,),
        evaluations=24,
        draws=2,
        fitness=MaskFitness(images=40, race=(20,)),
        train_epochs=6,
        epochs=1,
        few_epochs=3,
        batch_size=16,
        lr=0.01,
    )


def results(folder):
    """What every cell found, without how long it took."""

    def timeless(content):
        return {key: value for key, value in content.items() if key != "seconds"}

    cells = sorted((folder.path / "cells").glob("*/*.json"))
    return {str(path.relative_to(folder.path)): timeless(json.loads(path.read_text())) for path in cells}


@pytest.fixture(scope="module")
def done(plan, tmp_path_factory):
    return run_mask_study(plan, tmp_path_factory.mktemp("study"), device="cpu", threads=1)


def test_every_cell_is_searched_and_retrained(done):
    view = MaskStudyView.read(done.path)
    assert len(view.outcomes) == view.cells == 6 and not view.failed
    assert all(set(one.accuracy) == {"before", "1", "all"} for one in view.outcomes)
    evaluations = {one.searcher: one.evaluations for one in view.outcomes}
    assert evaluations == {"genetic": 24, "random": 24, "magnitude": 1}
    assert headline(view).startswith("6 of 6 searches are done")


def test_masks_are_kept_at_the_sparsity_asked_for(done):
    for path in (done.path / "cells").glob("*/masks.safetensors"):
        masks = safetensors.torch.load(path.read_bytes())
        total, kept = sum(m.numel() for m in masks.values()), sum(int(m.sum()) for m in masks.values())
        assert 0 <= 0.2 * total - kept < 1
        assert json.loads(path.with_name("search.json").read_text())["sparsity"] == pytest.approx(
            1 - kept / total
        )


def test_nothing_is_left_to_go_on_with(done):
    assert not list(done.path.rglob("*.part"))


def test_again_does_nothing(plan, done):
    listener = Hearing()
    run_mask_study(plan, done.path, device="cpu", listener=listener, threads=1)
    assert not listener.begun and "6 of 6 searches are done already" in listener.said


@pytest.mark.parametrize("stop_in", [2, 4])
def test_stopped_and_gone_on_with_it_finds_the_same(plan, done, tmp_path, stop_in):
    with pytest.raises(Interrupted, match="nothing is lost, the same command goes on"):
        run_mask_study(plan, tmp_path, device="cpu", listener=Hearing(stop_in), threads=1)
    again = run_mask_study(plan, tmp_path, device="cpu", threads=1)
    assert results(again) == results(done)


def test_side_by_side_it_finds_the_same(plan, done, tmp_path):
    fewer = replace(plan, draws=1)
    found = results(run_mask_study(fewer, tmp_path, device="cpu", workers=2, threads=1))
    assert len(found) == 9 and found.items() <= results(done).items()


def test_draws_that_are_added_leave_the_others_alone(plan, done, tmp_path):
    run_mask_study(replace(plan, draws=1), tmp_path, device="cpu", threads=1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("search.json")}
    added = run_mask_study(replace(plan, per_class=("1", "2", "all")), tmp_path, device="cpu", threads=1)
    assert len(before) == 3 and all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert (
        results(done).items() <= results(added).items() and len(list(added.path.rglob("retrained-2-*"))) == 6
    )


def test_searching_on_the_few_images_and_learning_from_the_dense_model(plan, done, tmp_path, images):
    from kezuri.distillation.losses.logits import Logits

    weights = str(next(done.path.glob("dense-*")))
    other = replace(
        plan,
        model=replace(plan.model, weights=weights),
        searchers={"random": RandomSearch(batch=8), "genetic": Genetic(population=8, grow="gradient")},
        draws=1,
        per_class=("2",),
        search_per_class=2,
        norms="reestimated",
        distill=Logits(),
    )
    found = results(run_mask_study(other, tmp_path, device="cpu", threads=1))
    searches = [one for name, one in found.items() if name.endswith("search.json")]
    assert [one["fitness"]["images"] for one in searches] == [2 * 4] * 2
    assert not list(tmp_path.glob("dense-*"))


def test_a_failed_cell_is_noted_and_tried_again(plan, tmp_path):
    listener = Hearing()
    broken = replace(plan, lr=1e30, train_epochs=0.1, draws=1, searchers={"magnitude": Magnitude()})
    weights = run_mask_study(
        replace(plan, draws=1, searchers={"magnitude": Magnitude()}), tmp_path, device="cpu", threads=1
    )
    broken = replace(broken, model=replace(plan.model, weights=str(next(weights.path.glob("dense-*")))))
    run_mask_study(broken, tmp_path, device="cpu", listener=listener, threads=1)
    view = MaskStudyView.read(tmp_path)
    assert len(view.failed) == 1 and view.failed[0].startswith("magnitude at 80 %, draw 0: ")
    assert any("failed: " in line for line in listener.said)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"per_class": ("99",)}, DataError, "images, 99 are asked for"),
        ({"search_per_class": 99}, DataError, "images, 99 are asked for"),
        ({"model": ModelChoice("plain2", {"width": 0.25}, "gone.pt")}, DataError, "no weights 'gone.pt'"),
        ({"model": ModelChoice("plan2")}, UsageError, "no model named 'plan2'"),
        ({"criterion": Taylor()}, UsageError, "'taylor' gives one score an output channel"),
    ],
)
def test_mistakes_are_said_before_any_work(plan, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        run_mask_study(replace(plan, **changes), tmp_path / "study", device="cpu", threads=1)
    assert not MaskStudyFolder(tmp_path / "study").path.exists()
