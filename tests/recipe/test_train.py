import pytest
import torch
from torch import nn

from kezuri.artifact.folder import RunFolder
from kezuri.core.errors import RecipeError, UsageError
from kezuri.data import from_tensors
from kezuri.prune.masks import Masks
from kezuri.prune.regularizers.bn_scale import BnScaleSparsity
from kezuri.prune.regularizers.group import GroupSparsity
from kezuri.recipe.document import parse
from kezuri.recipe.prepare import IN_MEMORY, prepare
from kezuri.recipe.recipe import DataChoice, ModelChoice, Recipe, recipe_from, recipe_from_json
from kezuri.recipe.run import resources_of
from kezuri.recipe.step import ModelState
from kezuri.recipe.steps.train import Train

TEXT = """\
name: sparse
model: {use: resnet8}
data: {use: fashion-mini}
goal: {accuracy: -0.9}
steps:
  - use: train
    epochs: 2
    regularizer: {use: bn_scale, strength: 1e-4}
"""


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
def train(data, model, tmp_path):
    """What a train step makes of the model."""

    def train(step, masks=None, folder="run"):
        recipe = Recipe("test", ModelChoice(IN_MEMORY), DataChoice(IN_MEMORY), (step,))
        ready = prepare(recipe, model=model, data=data, device="cpu")
        resources = resources_of(ready, RunFolder(tmp_path / folder))
        return step.apply(ModelState(model, masks=masks), resources, stage="1-train").model

    return train


def test_a_recipe_names_a_regularizer():
    step = recipe_from(parse(TEXT)).steps[0]
    assert step.regularizer == BnScaleSparsity(strength=1e-4)
    complete = recipe_from(parse(TEXT)).to_json()
    assert complete["steps"][0]["regularizer"] == {"use": "bn_scale", "strength": 1e-4}
    assert recipe_from_json(complete, "recipe.json").steps[0] == step
    without = recipe_from(parse(TEXT.replace("    regularizer: {use: bn_scale, strength: 1e-4}\n", "")))
    assert without.steps[0].regularizer is None


def test_a_wrong_one_is_named_with_its_line():
    with pytest.raises(RecipeError, match=r":8: .*no regularizer named 'bn' \(have: bn_scale, group\)"):
        recipe_from(parse(TEXT.replace("bn_scale", "bn")))
    with pytest.raises(RecipeError, match=r":8: .*strength must be above 0"):
        recipe_from(parse(TEXT.replace("1e-4", "0")))


@pytest.mark.parametrize("regularizer", [BnScaleSparsity(0.2), GroupSparsity(0.05)])
def test_it_makes_channels_fade(train, model, regularizer):
    settings = {"epochs": 4, "lr": 0.05, "batch_size": 16, "keep": "last"}
    plain = train(Train(**settings), folder="plain")
    faded = train(Train(**settings, regularizer=regularizer), folder="faded")
    assert faded[1].weight.abs().min() < 0.5 * plain[1].weight.abs().min()
    assert model[1].weight.tolist() == [1] * 6


def test_masks_hold_under_it(train):
    mask = torch.ones(6, 1, 3, 3, dtype=torch.bool)
    mask[2] = False
    step = Train(epochs=1, lr=0.05, batch_size=16, regularizer=GroupSparsity(0.05))
    assert not train(step, Masks({"0.weight": mask}))[0].weight[2].any()


def test_a_model_with_nothing_to_draw_at_is_refused_before_training(train, model):
    model[1] = nn.Identity()
    with pytest.raises(UsageError, match="this model has none"):
        train(Train(epochs=1, regularizer=BnScaleSparsity()))
