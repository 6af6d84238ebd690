"""The README's Python is run as it stands, and its commands exist."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.main import get_command

import kezuri
from kezuri import Training, fit
from kezuri.cli.main import app

README = Path("README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The reader's folder, with `images/<class>/*.png` in it."""
    folder, dice = tmp_path_factory.mktemp("reader"), np.random.default_rng(0)
    for label in range(4):
        pattern = dice.integers(0, 200, (8, 8, 3))
        (folder / "images" / f"class {label}").mkdir(parents=True)
        for number in range(100):
            pixels = np.clip(pattern + dice.normal(20, 20, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"class {label}" / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def names(home):
    """What the reader is said to have: a trained `model` and some `images`; `data`, from the first block on."""
    data = kezuri.load_data(str(home / "images"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 16, 3),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 4),
        )
    fit(model, data, Training(epochs=6, lr=0.05, batch_size=32), seed=0)
    batch = next(iter(data.validation.batches(2)))
    return {"model": model, "data": data, "images": batch.images}


def test_there_are_blocks_to_run():
    assert len(BLOCKS) == 4 and any("cut(" in block for block in BLOCKS)


@pytest.mark.parametrize("block", BLOCKS, ids=["compress", "channels", "integers", "pieces"])
def test_the_python_runs(block, names, home, monkeypatch):
    monkeypatch.chdir(home)
    given = {name: value for name, value in names.items() if name != "data" or "data =" not in block}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(block, "README.md", "exec"), {"kezuri": kezuri, **given})


def test_every_command_named_exists_and_every_command_is_named():
    named = set(re.findall(r"kezuri ([\w-]+)", README)) | set(re.findall(r"· `([\w-]+)`", README))
    assert set(get_command(app).commands) <= named


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert links
    for link in links:
        assert Path(link).exists(), link
