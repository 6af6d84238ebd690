"""Label smoothing and every augmentation, in every step that trains."""

import json
from importlib import import_module

import pytest

from kezuri.artifact.folder import RunFolder
from kezuri.artifact.manifest import Manifest
from kezuri.core.errors import RecipeError
from kezuri.data.augment import CutMix, Cutout, Flip, Mixup, PadCrop, RandAugment
from kezuri.recipe.document import Document, parse
from kezuri.recipe.prepare import prepare
from kezuri.recipe.recipe import recipe_from, recipe_from_json
from kezuri.recipe.run import run
from kezuri.recipe.step import steps
from kezuri.recipe.steps.pcas import PcasLoop

import_module("kezuri.recipe.steps")  # its members register themselves
ALONE = [name for name, kind in steps.items() if "augment" in kind.__dataclass_fields__]
WITHIN = [name for name, kind in steps.items() if "finetune" in kind.__dataclass_fields__]
NEEDED = {"prune": {"criterion": "l2"}}  # what a step has no default for
TECHNIQUES = {
    "cutout": Cutout(size=6, p=0.5),
    "mixup": Mixup(alpha=0.4),
    "cutmix": CutMix(alpha=1.0, p=0.7),
    "rand_augment": RandAugment(operations=1, magnitude=5.0),
    "pad_crop": PadCrop(pad=2),
    "flip": Flip(p=0.3),
}
SETTINGS = {
    "cutout": {"size": 6, "p": 0.5},
    "mixup": {"alpha": 0.4},
    "cutmix": {"alpha": 1.0, "p": 0.7},
    "rand_augment": {"operations": 1, "magnitude": 5.0},
    "pad_crop": {"pad": 2},
    "flip": {"p": 0.3},
}


def recipe_with(step, technique):
    """A recipe of one step with these training settings, and the training the step would make."""
    own = technique if step in ALONE else {"finetune": technique}
    settings = {"use": step, **NEEDED.get(step, {}), **own}
    content = {"name": "r", "model": {"use": "resnet8"}, "data": {"use": "fashion-mini"}, "steps": [settings]}
    recipe = recipe_from(Document(content, "recipe", {}))
    assert recipe_from_json(json.loads(json.dumps(recipe.to_json())), "recipe.json") == recipe
    made = recipe.steps[0]
    made = made.as_prune() if isinstance(made, PcasLoop) else made
    return made.finetune.training(1) if hasattr(made, "finetune") else made


def test_there_are_steps_that_train():
    assert {*ALONE} >= {"train", "distill", "fixmatch", "pcas"}
    assert {*WITHIN} >= {"prune", "prune_blocks"}


@pytest.mark.parametrize("step", [*ALONE, *WITHIN])
@pytest.mark.parametrize("name", TECHNIQUES)
def test_augmentations_reach_the_training_of_every_step(step, name):
    training = recipe_with(step, {"augment": ["flip", {"use": name, **SETTINGS[name]}]})
    assert training.augment == (Flip(), TECHNIQUES[name])


@pytest.mark.parametrize("step", [*ALONE, *WITHIN])
def test_label_smoothing_reaches_the_training_of_every_step(step):
    assert recipe_with(step, {"label_smoothing": 0.1}).label_smoothing == 0.1
    with pytest.raises(RecipeError, match=r"label_smoothing must be in \[0, 1\), got 1"):
        recipe_with(step, {"label_smoothing": 1})


ALL = """augment: [pad_crop, flip, {use: cutout, size: 4}, {use: rand_augment, magnitude: 3}, mixup, cutmix]
    label_smoothing: 0.1"""
CHAIN = f"""\
name: techniques
model: {{use: resnet8, options: {{width: 0.25}}}}
data: {{use: FOLDER, validation: 0.25}}
goal: {{accuracy: -0.9}}
steps:
  - use: train
    epochs: 20
    batch_size: 16
    label_smoothing: 0.1
  - use: fixmatch
    epochs: 1
    batch_size: 4
    mu: 2
    labels_per_class: 3
    {ALL}
  - use: pcas
    rounds: 1
    epochs: 1
    batch_size: 16
    {ALL}
  - use: distill
    epochs: 1
    batch_size: 16
    loss: decoupled
    {ALL}
  - use: prune
    criterion: l2
    schedule: one_shot
    finetune:
      epochs: 1
      batch_size: 16
      {ALL.replace("    label", "      label")}
  - use: prune_blocks
    finetune:
      epochs: 1
      batch_size: 16
      {ALL.replace("    label", "      label")}
"""


def test_a_chain_of_all_steps_runs_with_all_of_them(images, tmp_path):
    text = CHAIN.replace("FOLDER", f"'{images}'")
    folder = run(prepare(recipe_from(parse(text)), device="cpu"), runs=tmp_path, threads=1)
    assert Manifest(RunFolder(folder.path)).read()["status"] == "finished"
