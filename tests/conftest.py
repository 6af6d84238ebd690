"""A folder of small images that is learnt in a second, and a run on it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, settings
from PIL import Image

# without the phase that explains a failure: it traces every line, and has been seen to stand still in torch
settings.register_profile("kezuri", phases=[phase for phase in Phase if phase is not Phase.explain])
settings.load_profile("kezuri")

RECIPE = """\
name: small
seed: 0
model: {use: resnet8, options: {width: 0.25}}
data: {use: FOLDER, validation: 0.25}
goal: {accuracy: -0.9}
steps:
  - use: train
    epochs: 30
    lr: 0.1
    batch_size: 16
  - use: pcas
    rate: 0.3
    rounds: 2
    epochs: 4
    lr: 0.1
    lr_ratio: 0.2
    batch_size: 16
    attention_epochs: 2
"""


def draw(folder: Path, *, classes: int = 4, each: int = 24, side: int = 12) -> Path:
    """Noisy copies of one pattern a class."""
    dice = np.random.default_rng(0)
    for label in range(classes):
        pattern = dice.integers(0, 200, (side, side))
        (folder / f"class {label}").mkdir(parents=True)
        for number in range(each):
            pixels = np.clip(pattern + dice.normal(20, 20, (side, side)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"class {label}" / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of four classes, 12×12 and grey."""
    return draw(tmp_path_factory.mktemp("data") / "small images")


@pytest.fixture(scope="session")
def recipe_text(images: Path) -> str:
    """A recipe on those images, in YAML: trains, then cuts in two rounds; done in a few seconds."""
    return RECIPE.replace("FOLDER", f"'{images}'")


@pytest.fixture(scope="session")
def ended(recipe_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of that recipe; to be read only."""
    import torch

    from kezuri.recipe.document import parse
    from kezuri.recipe.prepare import prepare
    from kezuri.recipe.recipe import recipe_from
    from kezuri.recipe.run import run

    before = torch.get_num_threads()
    prepared = prepare(recipe_from(parse(recipe_text)), device="cpu")
    folder = run(prepared, runs=tmp_path_factory.mktemp("runs"), as_written=recipe_text, threads=1)
    torch.set_num_threads(before)
    return folder.path


@pytest.fixture
def finished(ended: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to change at will."""
    return Path(shutil.copytree(ended, tmp_path / ended.name))
