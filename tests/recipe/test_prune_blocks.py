import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from kezuri.artifact.folder import RunFolder
from kezuri.artifact.manifest import Manifest
from kezuri.calibrate.run import Sample
from kezuri.core.errors import KezuriError, UnknownName, UsageError
from kezuri.core.goal import Goal
from kezuri.data import from_tensors
from kezuri.model.depth import find_blocks
from kezuri.model.shrink import Structure
from kezuri.prune.criteria.norm import L2
from kezuri.prune.depth import Loss, block_criteria
from kezuri.prune.granularity import Channel
from kezuri.prune.masks import Masks
from kezuri.prune.schedule import Iterative
from kezuri.recipe.document import parse
from kezuri.recipe.finetune import Finetune
from kezuri.recipe.listener import SilentListener
from kezuri.recipe.prepare import IN_MEMORY, prepare
from kezuri.recipe.prune_blocks import prune_blocks, score_blocks
from kezuri.recipe.recipe import DataChoice, ModelChoice, Recipe, recipe_from, recipe_from_json
from kezuri.recipe.run import resources_of
from kezuri.recipe.step import ModelState
from kezuri.recipe.steps.prune import Prune
from kezuri.recipe.steps.prune_blocks import PruneBlocks
from kezuri.report.reading import RunView
from kezuri.report.rounds import rounds_table
from kezuri.train import Training, fit

SAMPLE = Sample(batches=2, batch_size=32)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x):
        return (x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()


@pytest.fixture(scope="module")
def data():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(360) % 3
    patterns = torch.randn(3, 1, 6, 6, generator=draw)
    images = patterns[labels] + 0.5 * torch.randn(360, 1, 6, 6, generator=draw)
    return from_tensors((images, labels), validation=120, seed=0)


@pytest.fixture(scope="module")
def trained(data):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stem = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU()]
        model = nn.Sequential(*stem, Block(), Block(), Block(), nn.Flatten(), nn.Linear(128, 3))
    fit(model, data, Training(epochs=4, lr=0.05), seed=0)
    return model.eval()


def test_the_least_block_goes_and_everything_is_told(trained, data):
    before = copy.deepcopy(trained.state_dict())
    pruned = prune_blocks(trained, data, 1, "similarity", sample=SAMPLE)
    assert len(pruned.dropped) == 1 and pruned.dropped[0] == min(
        pruned.report.scores, key=pruned.report.scores.get
    )
    assert pruned.structure == Structure(dropped=pruned.dropped) and pruned.proof <= 1e-5
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.state_dict().items())
    assert type(pruned.model.get_submodule(pruned.dropped[0])) is nn.Identity
    images = torch.randn(4, 1, 6, 6)
    torch.testing.assert_close(pruned.model(images), pruned.masked.eval()(images))
    lost = 2 * (8 * 8 * 9 + 2 * 8)
    assert pruned.report.before.params - pruned.report.after.params == lost
    assert pruned.report.before.macs - pruned.report.after.macs == 2 * 8 * 8 * 9 * 16
    said = str(pruned.report)
    assert f"{pruned.dropped[0]}  " in said and "3 blocks: 1 dropped, 2 kept, 0 blocked" in said
    assert len(pruned.report) == len(list(pruned.report)) == 3


def test_a_fraction_a_method_and_a_dataset_will_do(trained, data):
    part = next(data.train.batches(400))
    dataset = TensorDataset(part.images, part.targets)
    pruned = prune_blocks(trained, dataset, 0.5, Loss(of="accuracy"), protect=["4"], sample=SAMPLE)
    assert set(pruned.dropped) <= {"3", "5"} and len(pruned.dropped) == 1
    assert {row.block: row.reason for row in pruned.report}["4"] == "protected"
    all_of_them = prune_blocks(trained, data, 1.0, "taylor", sample=SAMPLE)
    assert all_of_them.dropped == ("3", "4", "5")


def test_the_criterion_of_loss_sees_validation_images_and_the_others_training_images(trained, data):
    blocks = find_blocks(trained, torch.zeros(2, 1, 6, 6))
    for name, seen in (("loss", "validation"), ("similarity", "train"), ("taylor", "train")):
        scores = score_blocks(trained, blocks, block_criteria[name](), data, sample=SAMPLE)
        for part in ("train", "validation"):
            fewer = replace(data, **{part: getattr(data, part).subset(10)})
            other = score_blocks(trained, blocks, block_criteria[name](), fewer, sample=SAMPLE)
            assert (scores == other) == (part != seen)


def test_in_place_the_optimizer_follows(trained, data):
    model = copy.deepcopy(trained)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    pruned = prune_blocks(model, data, 2, sample=SAMPLE, optimizer=optimizer, inplace=True)
    assert pruned.model is model
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"drop": 4}, UsageError, "asks for 4 blocks, but 3 may go"),
        ({"drop": 1.5}, UsageError, "drop is a number of blocks"),
        (
            {"criterion": "similar"},
            UnknownName,
            "no block criterion named 'similar' .*did you mean 'similarity'",
        ),
        ({"protect": ["9"]}, UsageError, "no module is named '9'"),
        ({"optimizer": torch.optim.SGD(nn.Linear(1, 1).parameters())}, UsageError, "inplace=True"),
    ],
)
def test_what_cannot_be_done_is_said(trained, data, arguments, error, message):
    with pytest.raises(error, match=message):
        prune_blocks(trained, data, **arguments)
    with pytest.raises(UsageError, match="data is a Data or a torch Dataset, got list"):
        prune_blocks(trained, [])


TEXT = """\
name: shallow
model: {use: resnet8}
data: {use: fashion-mini}
steps:
  - use: prune_blocks
    drop: 0.5
    criterion: {use: loss, of: accuracy}
    finetune: {epochs: 2}
"""


def test_a_recipe_names_the_step():
    step = recipe_from(parse(TEXT)).steps[0]
    assert step == PruneBlocks(drop=0.5, criterion=Loss(of="accuracy"), finetune=Finetune(epochs=2))
    complete = recipe_from(parse(TEXT)).to_json()
    assert complete["steps"][0]["criterion"] == {"use": "loss", "of": "accuracy"}
    assert recipe_from_json(complete, "recipe.json").steps[0] == step
    assert type(recipe_from(parse(TEXT.replace("0.5", "2"))).steps[0].drop) is int
    for old, new, message in (
        ("drop: 0.5", "drop: 1.5", r":6: .*drop is a number of blocks"),
        ("drop: 0.5", "drop: 0", r":6: .*drop is a number of blocks"),
        ("drop: 0.5", "rounds: 0", r":6: .*rounds is 1 or more"),
        ("accuracy}", "speed}", r"'loss' or 'accuracy'|expected"),
    ):
        with pytest.raises(KezuriError, match=message):
            recipe_from(parse(TEXT.replace(old, new)))


class Killed(Exception):
    pass


class Hearing(SilentListener):
    def __init__(self, dies_after=None):
        self.rounds, self.dies_after = [], dies_after

    def round_done(self, measurements, decision):
        self.rounds.append((decision["round"], decision["verdict"]))
        if decision["round"] == self.dies_after:
            raise Killed


@pytest.fixture
def work(data, trained, tmp_path):
    """Applies steps; a second call with the same arguments goes on in the same folder."""

    def run(*steps, goal=None, folder="run", dies_after=None, masks=None):
        recipe = Recipe(
            "test", ModelChoice(IN_MEMORY), DataChoice(IN_MEMORY), steps, goal=goal or Goal(accuracy=-0.9)
        )
        prepared = prepare(recipe, model=trained, data=data, device="cpu")
        hearing = Hearing(dies_after)
        resources = resources_of(prepared, RunFolder(tmp_path / folder), hearing)
        state = ModelState(copy.deepcopy(trained), masks=masks)
        for number, step in enumerate(steps, start=1):
            state = step.apply(state, resources, stage=f"{number}-step")
        return (
            state,
            hearing,
            RunView(
                tmp_path / folder,
                recipe.to_json(),
                Manifest(RunFolder(tmp_path / folder)).read(),
                tuple(resources.stages.journal.read()),
            ),
        )

    return run


def step(**changes):
    return PruneBlocks(**{"finetune": Finetune(epochs=1, lr=0.05), "sample": SAMPLE, **changes})


def test_rounds_drop_block_after_block_and_the_report_shows_them(work):
    state, hearing, view = work(step(rounds=2))
    assert hearing.rounds == [(0, "dense"), (1, "accepted"), (2, "accepted")]
    assert len(state.structure.dropped) == 2
    assert sum(type(module) is nn.Identity for module in state.model) == 2
    assert [entry.verdict for entry in view.rounds] == ["dense", "accepted", "accepted"]
    params = [entry.params for entry in view.rounds]
    assert params[0] - params[1] == params[1] - params[2] == 2 * (8 * 8 * 9 + 2 * 8)
    assert view.rounds[1].lr_ratio == 0.5 and view.rounds[2].validation is not None
    assert "validation" in str(rounds_table(view).head_line())
    gone = [layer for layer in view.layers if layer.reason == "its block was dropped"]
    assert {layer.name.partition(".")[0] for layer in gone} == set(state.structure.dropped)
    assert all(layer.after == 0 and layer.state == "cut" for layer in gone) and len(view.layers) == 8
    assert view.find("proof_error", round=2).value <= 1e-5
    assert view.manifest["stop"]["kind"] == "rounds"


def test_a_round_below_the_floor_is_undone(work, trained):
    state, hearing, view = work(step(rounds=3, drop=3, finetune=Finetune(epochs=0)), goal=Goal(accuracy=-0.0))
    assert hearing.rounds == [(0, "dense"), (1, "rolled back")]
    assert state.structure == Structure() and view.manifest["stop"]["kind"] == "floor"
    assert all(torch.equal(t, trained.state_dict()[n]) for n, t in state.model.state_dict().items())
    assert "is below the floor" in view.manifest["decisions"][0]["why"]


def test_rounds_end_where_no_more_blocks_may_go(work):
    state, hearing, view = work(step(rounds=5, drop=2))
    assert hearing.rounds == [(0, "dense"), (1, "accepted"), (2, "stopped")]
    assert len(state.structure.dropped) == 2 and view.manifest["stop"]["kind"] == "saturation"


@pytest.mark.parametrize("dies_after", [0, 1, 2])
def test_a_killed_step_goes_on_and_ends_alike(work, dies_after):
    plan = step(rounds=3)
    whole, *_ = work(plan, folder="whole")
    with pytest.raises(Killed):
        work(plan, dies_after=dies_after)
    resumed, hearing, view = work(plan)
    assert hearing.rounds == [(0, "dense"), *((at, "accepted") for at in (1, 2, 3))]
    assert resumed.structure == whole.structure
    assert all(torch.equal(t, whole.model.state_dict()[n]) for n, t in resumed.model.state_dict().items())
    assert [one["round"] for one in view.manifest["decisions"]] == [1, 2, 3]
    again, hearing, _ = work(plan)
    assert hearing.rounds == [] and again.structure == whole.structure


def test_channels_and_blocks_may_follow_each_other(work):
    channels = Prune(
        criterion=L2(),
        granularity=Channel(floor=2),
        schedule=Iterative(rounds=1, rate=0.3),
        finetune=Finetune(epochs=1, lr=0.05),
    )
    state, hearing, view = work(channels, step(), folder="after")
    assert hearing.rounds == [(0, "dense"), (1, "accepted"), (2, "accepted")]
    assert state.structure.kept and len(state.structure.dropped) == 1
    assert [one["round"] for one in view.manifest["decisions"]] == [1, 2]
    assert {layer.after for layer in view.layers if layer.reason == "its block was dropped"} == {0}
    state, *_ = work(step(), channels, folder="before")
    assert state.structure.kept and len(state.structure.dropped) == 1


def test_masks_of_blocks_that_stay_hold(work, trained):
    masks = Masks({f"{at}.conv1.weight": torch.rand(8, 8, 3, 3) > 0.3 for at in (3, 4, 5)})
    state, *_ = work(step(), masks=masks)
    assert set(state.masks) == set(masks) - {f"{state.structure.dropped[0]}.conv1.weight"}
    for name, mask in state.masks.items():
        assert not state.model.get_parameter(name)[~mask].any()


def test_mistakes_come_before_long_work(work):
    with pytest.raises(UsageError, match="asks for 4 blocks, but 3 may go"):
        work(step(drop=4))
    with pytest.raises(UsageError, match="asks for 1 block, but none may go"):
        work(step(ignore=("3", "4", "5")), folder="ignored")
    assert step(finetune=Finetune(epochs=0.5)).warnings() and not step().warnings()
    assert step().seconds.__doc__ and step(finetune=Finetune(batch_size=16)).batch_size == 16
