import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from kezuri.artifact.folder import RunFolder
from kezuri.core.errors import DataError, RecipeError
from kezuri.data import from_tensors
from kezuri.data.augment import Cutout, Flip, PadCrop, RandAugment
from kezuri.prune.masks import Masks
from kezuri.recipe.check import estimate
from kezuri.recipe.document import parse
from kezuri.recipe.prepare import IN_MEMORY, prepare
from kezuri.recipe.recipe import DataChoice, ModelChoice, Recipe, recipe_from, recipe_from_json
from kezuri.recipe.run import resources_of, run
from kezuri.recipe.step import ModelState
from kezuri.recipe.steps.fixmatch import FixMatchTraining
from kezuri.recipe.steps.train import Train

TEXT = """\
name: few
model: {use: resnet8}
data: {use: fashion-mini}
steps:
  - use: fixmatch
    epochs: 2
    labels_per_class: 10
    strong: [flip, {use: rand_augment, operations: 3}]
"""
SMALL = {
    "epochs": 8,
    "batch_size": 8,
    "lr": 0.05,
    "mu": 2,
    "threshold": 0.4,
    "augment": (),
    "weak": (),
    "strong": (PadCrop(1),),
}


@pytest.fixture(scope="module")
def data():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    images = torch.randn(3, 1, 6, 6, generator=draw)[labels] + 0.5 * torch.randn(120, 1, 6, 6, generator=draw)
    return from_tensors((images, labels), validation=30, seed=0)


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))


@pytest.fixture
def resources(data, model, tmp_path):
    def resources(step, seed=0, folder="run"):
        recipe = Recipe("test", ModelChoice(IN_MEMORY), DataChoice(IN_MEMORY), (step,), seed=seed)
        ready = prepare(recipe, model=model, data=data, device="cpu")
        return resources_of(ready, RunFolder(tmp_path / folder))

    return resources


def test_a_recipe_names_it_and_keeps_every_setting():
    recipe = recipe_from(parse(TEXT))
    step = recipe.steps[0]
    assert step == FixMatchTraining(epochs=2, labels_per_class=10, strong=(Flip(), RandAugment(operations=3)))
    assert (step.mu, step.threshold, step.weight, step.lr, step.batch_size) == (7, 0.95, 1.0, 0.03, 64)
    assert isinstance(FixMatchTraining().strong[-1], Cutout)
    assert recipe_from_json(json.loads(json.dumps(recipe.to_json())), "recipe.json").steps[0] == step


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("threshold: 1.5", r":7: .*threshold is a probability from 0 to 1, got 1.5"),
        ("mu: 0", r":7: .*mu is 1 or more"),
        ("weak: [mixup]", r":7: .*weak cannot hold mixup"),
        ("label_per_class: 3", r"no setting 'label_per_class' .*did you mean 'labels_per_class'"),
    ],
)
def test_a_wrong_setting_is_named_with_its_line(line, said):
    with pytest.raises(RecipeError, match=said):
        recipe_from(parse(TEXT.replace("labels_per_class: 10", line)))


def test_it_trains_on_the_labels_it_was_given_alone(resources, model):
    step = FixMatchTraining(**SMALL, labels_per_class=4)
    first = resources(step)
    trained = step.apply(ModelState(model), first, stage="1-fixmatch")
    record = first.stages.record("1-fixmatch")
    assert record["labels"] == 12 and record["accuracy"] > 0.5
    assert len(step.data(first).train) == 6 * 8  # it takes 6 steps of 16 to show 90 images
    again = step.apply(ModelState(model), first, stage="1-fixmatch")
    assert all(
        torch.equal(a, b) for a, b in zip(trained.model.parameters(), again.model.parameters(), strict=True)
    )
    assert model[1].num_batches_tracked == 0


def test_which_labels_does_not_depend_on_the_runs_seed(resources):
    step = FixMatchTraining(**SMALL, labels_per_class=4)
    one, other = (step.data(resources(step, seed=seed, folder=f"run {seed}")) for seed in (0, 1))
    assert one.fingerprint == other.fingerprint and torch.equal(one.train.images, other.train.images)
    another = FixMatchTraining(**SMALL, labels_per_class=4, label_seed=1).data(resources(step))
    assert not torch.equal(one.train.images, another.train.images)


def test_masks_hold_under_it(resources, model):
    mask = torch.ones(6, 1, 3, 3, dtype=torch.bool)
    mask[2] = False
    step = FixMatchTraining(**SMALL, labels_per_class=4)
    state = ModelState(model, masks=Masks({"0.weight": mask}))
    trained = step.apply(state, resources(step), stage="1-fixmatch").model
    assert not trained[0].weight[2].any() and trained[0].weight[1].any()


def test_its_time_is_estimated_and_unwise_settings_are_named(resources, model):
    step = FixMatchTraining(**SMALL, labels_per_class=4)
    assert step.seconds(ModelState(model), resources(step)) > 0
    assert "threshold 0.4 lets the model learn" in step.warnings()[0]
    assert not FixMatchTraining().warnings()


def test_more_labels_than_there_are_is_refused_before_any_work(resources, model, data, tmp_path):
    step = FixMatchTraining(**SMALL, labels_per_class=31)
    with pytest.raises(DataError, match="class 0 has 30 images, 31 are asked for"):
        step.apply(ModelState(model), resources(step), stage="1-fixmatch")
    recipe = Recipe("test", ModelChoice(IN_MEMORY), DataChoice(IN_MEMORY), (Train(epochs=1), step))
    with pytest.raises(DataError, match="class 0 has 30 images, 31 are asked for"):
        run(prepare(recipe, model=model, data=data, device="cpu"), runs=tmp_path)


def test_its_views_count_in_the_memory_it_needs(model, data, tmp_path):
    def memory(mu):
        step = FixMatchTraining(**{**SMALL, "mu": mu}, labels_per_class=4)
        recipe = Recipe("test", ModelChoice(IN_MEMORY), DataChoice(IN_MEMORY), (step,))
        return estimate(prepare(recipe, model=model, data=data, device="cpu"), tmp_path).memory

    assert memory(4) - memory(2) == pytest.approx(2 * (memory(2) - memory(1)))
    assert memory(100) == memory(200)  # 90 images are all there are


def test_unwise_amounts_of_labels_and_images_are_named(resources, model):
    step = FixMatchTraining(**SMALL, labels_per_class=30)
    assert (
        "labels_per_class 30 keeps the labels of all 90 training images"
        in step.warnings_of(resources(step))[0]
    )
    step = FixMatchTraining(**{**SMALL, "mu": 100}, labels_per_class=4)
    assert step.warnings_of(resources(step)) == [
        "mu 100 asks for 800 unlabelled images a step and there are 90: an epoch is a single step"
    ]
    step = FixMatchTraining(**SMALL, labels_per_class=4)
    assert not step.warnings_of(resources(step))


def test_an_estimate_shows_the_model_a_bounded_number_of_images(resources):
    class Counting(nn.Sequential):
        most = 0

        def forward(self, x):
            Counting.most = max(Counting.most, len(x))
            return super().forward(x)

    counting = Counting(nn.Flatten(), nn.Linear(36, 3))
    labels = torch.arange(6000) % 3
    many = from_tensors((torch.zeros(6000, 1, 6, 6), labels), validation=30, normalize=((0.0,), (1.0,)))
    step = FixMatchTraining(**{**SMALL, "mu": 1000}, labels_per_class=4)
    there = replace(resources(step), data=many)
    assert step.seconds(ModelState(counting), there) > 0
    assert Counting.most == 2 * 512
