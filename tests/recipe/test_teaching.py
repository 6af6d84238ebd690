"""`distill:` in trainings and finetunings: the dense model, or a named one, looks on."""

import copy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kezuri.artifact.folder import RunFolder
from kezuri.core.errors import UsageError
from kezuri.core.goal import Goal
from kezuri.data import from_tensors
from kezuri.data.augment import PadCrop
from kezuri.distillation import Attention, Logits
from kezuri.prune.criteria.norm import L2
from kezuri.prune.granularity import Weight
from kezuri.prune.masks import Masks
from kezuri.prune.schedule import OneShot
from kezuri.recipe.build import plain
from kezuri.recipe.document import parse
from kezuri.recipe.finetune import Finetune
from kezuri.recipe.foresight import check_trainings, foresee
from kezuri.recipe.model_choice import ModelChoice
from kezuri.recipe.parts import parts_in
from kezuri.recipe.prepare import IN_MEMORY, prepare
from kezuri.recipe.recipe import DataChoice, Recipe, recipe_from, recipe_from_json
from kezuri.recipe.run import resources_of
from kezuri.recipe.step import ModelState
from kezuri.recipe.steps.distill import Distill
from kezuri.recipe.steps.fixmatch import FixMatchTraining
from kezuri.recipe.steps.pcas import PcasLoop
from kezuri.recipe.steps.prune import Prune
from kezuri.recipe.steps.prune_blocks import PruneBlocks
from kezuri.recipe.steps.train import Train
from kezuri.recipe.teaching import Teaching
from kezuri.train import Training, fit

SETTINGS = {"epochs": 2, "lr": 0.05, "batch_size": 20}


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.conv2(torch.relu(self.conv1(x))))


class Net(nn.Module):
    """Two blocks that may be dropped."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.last = nn.Linear(width, 3)

    def forward(self, x):
        return self.last(self.blocks(self.stem(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def data():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(150) % 3
    images = torch.randn(3, 1, 6, 6, generator=draw)[labels] + 0.8 * torch.randn(150, 1, 6, 6, generator=draw)
    return from_tensors((images, labels), validation=30, seed=0)


@pytest.fixture(scope="module")
def trained(data):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Net()
    fit(model, data, Training(epochs=6, lr=0.05, batch_size=20), seed=0, device="cpu")
    return model


@pytest.fixture
def resources(data, trained, tmp_path):
    def resources(step, dense=None, near=None):
        recipe = Recipe(
            "test", ModelChoice(IN_MEMORY), DataChoice(IN_MEMORY), (step,), goal=Goal(accuracy=-0.9)
        )
        prepared = prepare(recipe, model=trained, data=data, near=near, device="cpu")
        there = resources_of(prepared, RunFolder(tmp_path / f"run-{len(list(tmp_path.iterdir()))}"))
        return prepared, there if dense is None else replace_dense(there, dense)

    return resources


def replace_dense(resources, model):
    return replace(resources, dense=ModelState(model))


def weights_after(step, resources, trained, masks=None):
    dense = copy.deepcopy(trained)
    _, there = resources(step, dense)
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    state = step.apply(ModelState(copy.deepcopy(trained), masks=masks), there, stage="1-step")
    assert all(torch.equal(before[name], value) for name, value in dense.state_dict().items())
    return state.model.state_dict()


def finetune(teaching):
    return Finetune(epochs=1, lr=0.05, lr_ratio=1.0, batch_size=20, distill=teaching)


STEPS = {
    "train": lambda teaching: Train(**SETTINGS, keep="last", distill=teaching),
    "fixmatch": lambda teaching: FixMatchTraining(
        **SETTINGS, keep="last", labels_per_class=10, mu=2, weak=(), strong=(PadCrop(1),), distill=teaching
    ),
    "channels": lambda teaching: Prune(L2(), schedule=OneShot(0.3), finetune=finetune(teaching)),
    "weights": lambda teaching: Prune(
        L2(), granularity=Weight(), schedule=OneShot(0.5), finetune=finetune(teaching)
    ),
    "blocks": lambda teaching: PruneBlocks(finetune=finetune(teaching)),
}


@pytest.mark.parametrize("make", STEPS.values(), ids=STEPS)
def test_a_teacher_changes_what_is_learnt_and_nothing_else(make, resources, trained):
    alone = weights_after(make(None), resources, trained)
    one, other = (weights_after(make(Teaching(Logits(alpha=1.0))), resources, trained) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert {name: value.shape for name, value in one.items()} == {n: v.shape for n, v in alone.items()}
    assert not torch.equal(one["last.weight"], alone["last.weight"])


def test_masks_hold_under_a_teacher(resources, trained):
    mask = torch.ones(6, 1, 3, 3, dtype=torch.bool)
    mask[2] = False
    step = Train(**SETTINGS, distill=Teaching(Attention()))
    after = weights_after(step, resources, trained, masks=Masks({"stem.0.weight": mask}))
    assert not after["stem.0.weight"][2].any()


def test_the_dense_parent_teaches_what_was_cut_from_it(resources, trained):
    prepared, there = resources(STEPS["channels"](Teaching(Attention(beside=Logits()))))
    foresee(prepared, there)
    with pytest.raises(UsageError, match="distill has no teacher"):
        Teaching().objective(there)
    assert Teaching().objective(replace_dense(there, trained)).teacher is trained


def test_a_named_teacher_is_built_with_its_weights(resources, data, tmp_path):
    file = tmp_path / "nets.py"
    source = (
        "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(36, 3))\n"
    )
    file.write_text(source)
    taught = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    fit(taught, data, Training(epochs=4, lr=0.05, batch_size=20), seed=0, device="cpu")
    save_file(taught.state_dict(), tmp_path / "w.safetensors")
    teaching = Teaching(teacher=ModelChoice(f"{file}:build", weights="w.safetensors"))
    prepared, there = resources(Train(**SETTINGS, distill=teaching), near=tmp_path)
    teacher = teaching.objective(there).teacher
    assert torch.equal(teacher[1].weight, taught[1].weight)
    assert {"weights w.safetensors", f"code {file}"} <= prepared.inputs.keys()
    foresee(prepared, there)


@pytest.mark.parametrize("make", STEPS.values(), ids=STEPS)
def test_an_untrained_teacher_is_refused_in_every_step_and_foreseen(make, resources, trained):
    teaching = Teaching(teacher=ModelChoice("resnet8", {"width": 0.25}))
    prepared, there = resources(make(teaching), trained)
    message = "no better than chance, so it has nothing to teach: train it first"
    with pytest.raises(UsageError, match=message):
        prepared.recipe.steps[0].apply(ModelState(copy.deepcopy(trained)), there, stage="1-step")
    for foresight in (foresee, check_trainings):
        with pytest.raises(UsageError, match=f"^the teacher resnet8 of step 1 .*{message}"):
            foresight(prepared, there)


@pytest.mark.parametrize(
    ("steps", "refused"),
    [
        ([Train(**SETTINGS), STEPS["weights"](Teaching())], False),
        ([STEPS["weights"](Teaching())], True),
        ([Train(epochs=0), STEPS["weights"](Teaching())], True),
        ([Train(**SETTINGS), Distill(student=ModelChoice("resnet8", {"width": 0.25}))], False),
        ([Distill(student=ModelChoice("resnet8", {"width": 0.25}))], True),
        ([STEPS["weights"](None), Distill()], True),
        ([Train(**SETTINGS), STEPS["weights"](None), Distill()], False),
    ],
)
def test_the_model_itself_may_teach_once_a_step_has_trained_it(steps, refused, data, tmp_path):
    recipe = Recipe("test", ModelChoice("resnet8", {"width": 0.25}), DataChoice(IN_MEMORY), tuple(steps))
    prepared = prepare(recipe, data=data, device="cpu")
    there = resources_of(prepared, RunFolder(tmp_path))
    if refused:
        with pytest.raises(UsageError, match=r"the teacher of step . .* has nothing to teach"):
            check_trainings(prepared, there)
    else:
        check_trainings(prepared, there)


def test_recipes_say_it_and_runs_remember_it():
    text = """\
name: taught
model: {use: resnet8}
data: {use: fashion-mini}
steps:
  - use: train
    distill: {teacher: {use: resnet20, weights: t.pt}, loss: {use: decoupled, beta: 2}}
  - use: pcas
    distill: {}
  - use: prune
    criterion: l2
    finetune: {distill: {loss: hint}}
"""
    recipe = recipe_from(parse(text))
    train, pcas, prune = recipe.steps
    assert train.distill.teacher == ModelChoice("resnet20", weights="t.pt") and train.distill.loss.beta == 2
    assert isinstance(pcas, PcasLoop) and pcas.as_prune().finetune.distill == Teaching()
    assert plain(prune)["finetune"]["distill"]["loss"]["use"] == "hint"
    assert recipe_from_json(recipe.to_json(), "recipe.json").steps == recipe.steps


def test_parts_are_found_however_deep():
    step = PruneBlocks(finetune=finetune(Teaching(teacher=ModelChoice("a"))))
    named = [*parts_in((step, {"b": [ModelChoice("b")]}, "c", 3), ModelChoice)]
    assert [one.use for one in named] == ["a", "b"]
    assert len([*parts_in(step, Teaching)]) == 1 and not [*parts_in(step, Masks)]
