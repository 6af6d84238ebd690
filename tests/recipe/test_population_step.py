"""The step `population`: settings, masks that last, killed and resumed to the same, its order among others."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from kezuri.artifact.folder import RunFolder
from kezuri.artifact.journal import Journal
from kezuri.artifact.manifest import Manifest
from kezuri.core.errors import Interrupted, RecipeError, UsageError
from kezuri.core.executor import Processes
from kezuri.data import from_tensors
from kezuri.prune.criteria.norm import L1
from kezuri.prune.granularity import Filter
from kezuri.prune.population import Population
from kezuri.recipe.check import estimate
from kezuri.recipe.document import parse
from kezuri.recipe.foresight import check_ignored, check_order, foresee, images_at_once
from kezuri.recipe.listener import SilentListener
from kezuri.recipe.prepare import prepare
from kezuri.recipe.recipe import recipe_from, recipe_from_json
from kezuri.recipe.run import resources_of, run
from kezuri.recipe.step import ModelState
from kezuri.recipe.steps.population import PopulationTraining
from kezuri.report.write import write_report
from kezuri.train import Training, evaluate, fit

TEXT = """\
name: small
model: {use: <in memory>}
data: {use: <in memory>}
goal: {accuracy: -0.9}
steps:
"""
FINETUNE = "finetune: {epochs: 3, lr: 0.05, lr_ratio: 1, batch_size: 30}"
STEP = f"use: population, sparsity: 0.8, members: 3, intervals: 3, quantile: 0.34, {FINETUNE}"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 3
    images = torch.randn(3, 1, 8, 8, generator=draw)[labels] + torch.randn(240, 1, 8, 8, generator=draw)
    return from_tensors((images[:180], labels[:180]), (images[180:], labels[180:]), validation=60)


@pytest.fixture(scope="module")
def dense(data):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3)
        model = nn.Sequential(*layers)
    fit(model, data, Training(epochs=4, lr=0.05, batch_size=30), seed=0, device="cpu")
    return model.eval()


@pytest.fixture
def ready(data, dense):
    """A recipe with these steps, prepared."""

    def ready(steps):
        return prepare(recipe_from(parse(TEXT + steps)), model=copy.deepcopy(dense), data=data, device="cpu")

    return ready


@pytest.fixture
def apply(ready, tmp_path):
    """The state after the step, and what it could use."""

    def apply(step=STEP, name="run", listener=None, masks=None):
        prepared = ready(f"  - {{{step}}}\n")
        resources = resources_of(prepared, RunFolder(tmp_path / name), listener)
        state = ModelState(prepared.model, masks=masks)
        resources = replace(resources, dense=state)
        return prepared.recipe.steps[0].apply(state, resources, stage="1-population"), resources

    return apply


class Stopping(SilentListener):
    """Stops after so many members."""

    def __init__(self, after):
        self.left = after

    def advance(self, steps, _figures):
        self.left -= steps
        if self.left == 0:
            raise KeyboardInterrupt


def same(one, other):
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours) and all(
        torch.equal(mask, other.masks[name]) for name, mask in one.masks.items()
    )


def history(resources):
    rows = resources.stages.record("1-population")["history"]
    return [[{**one, "seconds": 0} for one in row] for row in rows]


def test_a_recipe_names_all_of_it_and_keeps_every_setting():
    text = TEXT + (
        "  - {use: population, sparsity: 0.95, members: 12, intervals: 6, quantile: 0.2, swap: 0.05, grow: worth,\n"
        "     temperatures: [0, 1000], factors: [0.5, 2], resample: 0.1, spread: 3, aside: 500, criterion: l2,\n"
        "     granularity: filter, scope: local, ignore: [head], executor: {use: processes, workers: 2},\n"
        "     finetune: {distill: {loss: attention}}}\n"
    )
    recipe = recipe_from(parse(text))
    step = recipe.steps[0]
    assert step.population() == Population(
        0.95, 12, 6, 0.2, 0.05, "worth", (0.0, 1000.0), (0.5, 2.0), 0.1, 3.0, 500
    )
    assert step.granularity == Filter() and step.executor == Processes(2) and step.at_once == 2
    assert recipe_from_json(json.loads(json.dumps(recipe.to_json())), "recipe.json").steps[0] == step
    assert PopulationTraining().criterion == L1() and PopulationTraining().warnings() == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("sparsity: 1", r"sparsity is a fraction in \[0, 1\), got 1"),
        ("members: 1", "members is 2 or more, got 1"),
        ("grow: luck", "expected 'gradient' or 'worth', got 'luck'"),
        ("granularity: channel", "'channel' is cut out.* only masked: use 'weight', 'block' or 'filter'"),
        ("executor: thread", "no executor named 'thread' .have: inline, processes."),
        ("executor: {use: processes, workers: 0}", "workers is 1 or more"),
        ("rounds: 3", "has no setting 'rounds'"),
    ],
)
def test_wrong_settings_are_refused_with_their_line(settings, message):
    with pytest.raises(RecipeError, match=rf":6: .*{message}"):
        recipe_from(parse(TEXT + f"  - {{use: population, {settings}}}\n"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("intervals: 1", "never copies the best"),
        ("intervals: 9, finetune: {epochs: 1}", "compare members before what they changed shows"),
        ("members: 3", "3 members leave little to choose from"),
        ("swap: 0.5", "swap 0.5 changes most of what a copy has learnt"),
        ("finetune: {batch_size: 8}", "batch_size 8 makes BatchNorm statistics noisy"),
    ],
)
def test_settings_known_to_fail_are_warned_of(settings, message):
    recipe = recipe_from(parse(TEXT + f"  - {{use: population, {settings}}}\n"))
    (warning,) = recipe.steps[0].warnings()
    assert message in warning


def test_the_best_member_goes_on_with_its_masks(apply, data):
    after, resources = apply()
    assert after.masks.sparsity == pytest.approx(0.8, abs=0.002)
    weights = dict(after.model.named_parameters())
    assert all(not weights[name][~mask].any() for name, mask in after.masks.items())
    record = resources.stages.record("1-population")
    assert record["accuracy"] == evaluate(after.model, data.validation, device="cpu").accuracy > 0.5
    assert (
        len(record["history"]) == 3 and record["best"]["weights"] == after.masks.total - after.masks.removed
    )
    rows = {row.metric: row for row in resources.stages.journal.read()}
    assert {"accuracy", "seconds", "sparsity", "population_accuracy"} <= set(rows)
    assert rows["population_accuracy"].conditions["interval"] == 3
    again, _ = apply()  # the finished stage, read back
    assert same(after, again)


def test_interrupted_and_resumed_it_ends_the_same(apply, tmp_path):
    whole, resources = apply(name="whole")
    for members in (2, 5):
        with pytest.raises(Interrupted):
            apply(listener=Stopping(members))
    resumed, again = apply()
    assert same(whole, resumed) and history(resources) == history(again)
    assert not (tmp_path / "run" / "stages" / "1-population" / "training").exists()


def test_weights_removed_before_stay_removed(apply):
    first, _ = apply()
    step = STEP.replace("sparsity: 0.8", "sparsity: 0.9")
    second, _ = apply(step, name="second", masks=first.masks)
    assert all(not (mask & ~first.masks[name]).any() for name, mask in second.masks.items())
    assert second.masks.sparsity == pytest.approx(0.9, abs=0.002)


def test_a_teacher_takes_part(apply):
    plain, _ = apply(name="plain")
    taught, _ = apply(STEP.replace("batch_size: 30", "batch_size: 30, distill: {}"), name="taught")
    assert not same(plain, taught)


def test_what_it_takes_is_known_before(ready, tmp_path):
    inline, parallel = (
        ready(f"  - {{{STEP}, executor: {executor}}}\n")
        for executor in ("inline", "{use: processes, workers: 3}")
    )
    found, more = (estimate(prepared, tmp_path) for prepared in (inline, parallel))
    assert found.seconds > 30 and any("3 members" in one for one in found.warnings)
    assert more.memory == 3 * found.memory
    foresee(inline, resources_of(inline, RunFolder(tmp_path / "any")))
    assert images_at_once(inline.recipe.steps[0], 1000) == 30


def test_a_later_training_holds_the_masks(ready, tmp_path):
    prepared = ready(f"  - {{{STEP}}}\n  - {{use: train, epochs: 1, lr: 0.01, batch_size: 30}}\n")
    resources, state = resources_of(prepared, RunFolder(tmp_path / "run")), ModelState(prepared.model)
    for number, step in enumerate(prepared.recipe.steps):
        before, state = state, step.apply(state, resources, stage=str(number))
    assert not same(before, state) and before.masks.sparsity == state.masks.sparsity
    weights = dict(state.model.named_parameters())
    assert all(not weights[name][~mask].any() for name, mask in state.masks.items())


@pytest.mark.slow
def test_a_whole_run_and_its_report(ready, tmp_path):
    prepared = ready(f"  - {{{STEP}}}\n")
    folder = run(prepared, runs=tmp_path / "runs", as_written=TEXT + f"  - {{{STEP}}}\n")
    rows = Journal(folder.measurements).read()
    (final,) = [
        row.value
        for row in rows
        if row.metric == "sparsity"
        and row.conditions["model"] == "final"
        and row.conditions["of"] == "weights"
    ]
    assert Manifest(folder).read()["status"] == "finished" and final == pytest.approx(0.8, abs=0.002)
    write_report(folder.path)
    assert folder.report.exists()


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            "  - {use: quantize, equalize: true, per_channel: false}\n  - {use: population}\n",
            "prune first, then quantize",
        ),
        ("  - {use: population}\n  - {use: prune, criterion: l2}\n", "cut first, then mask"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(steps, message):
    with pytest.raises(UsageError, match=message):
        check_order(recipe_from(parse(TEXT + steps)))


def test_a_layer_to_ignore_must_be_there(ready, tmp_path):
    prepared = ready("  - {use: population, ignore: [nowhere]}\n")
    with pytest.raises(UsageError, match="nowhere"):
        check_ignored(prepared, resources_of(prepared, RunFolder(tmp_path / "any")))
