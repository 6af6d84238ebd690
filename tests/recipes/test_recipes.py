"""Every recipe of the repository is run, small: its steps and settings, on a small model and easy images."""

from pathlib import Path

import pytest
import torch

from kezuri import Training, fit, load_recipe, prepare, run
from kezuri.artifact.manifest import Manifest
from kezuri.data import from_tensors
from kezuri.model.load import ModelSpec, load_model

FILES = sorted([*Path("recipes").glob("*.yaml"), *Path("src/kezuri/recipe").glob("*.yaml")])


@pytest.fixture(scope="module")
def data():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(500) % 5
    patterns = torch.randn(5, 3, 12, 12, generator=draw)
    images = patterns[labels] + 0.5 * torch.randn(500, 3, 12, 12, generator=draw)
    return from_tensors((images[:400], labels[:400]), (images[400:], labels[400:]), validation=100)


@pytest.fixture(scope="module")
def model(data):
    spec = ModelSpec("resnet8", {"width": 0.5, "shortcut": "B"})
    model = load_model(spec, classes=5, image_shape=data.image_shape)
    fit(model, data, Training(epochs=4, lr=0.05, batch_size=50), seed=0)
    return model


def test_there_are_recipes():
    assert len(FILES) >= 3


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_runs_small(file, data, model, tmp_path):
    steps = load_recipe(file).to_json()["steps"]
    changes = ["goal.accuracy=-0.9"]
    for number, step in enumerate(steps):
        changes.append(f"steps.{number}.{'finetune.' if 'finetune' in step else ''}epochs=0.2")
        if step.get("search"):
            changes += [f"steps.{number}.search.evaluations=40", f"steps.{number}.schedule.rate=0.5"]
            changes += [f"steps.{number}.schedule.rounds=2", f"steps.{number}.search.fitness.images=100"]
        if step["use"] == "pcas":
            changes += [f"steps.{number}.attention_epochs=0.2", f"steps.{number}.keep=null"]
    folder = run(prepare(load_recipe(file, changes), model=model, data=data, device="cpu"), runs=tmp_path)
    manifest = Manifest(folder).read()
    assert manifest["status"] == "finished" and manifest["answer"]["met"] in (True, False)
    assert (folder.model("final") / "model.onnx").is_file() and not Manifest(folder).damaged()
