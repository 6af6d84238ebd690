"""The README's Python is run as it stands, and its commands exist."""

import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.main import get_command

import kezuri
from kezuri import Training, fit
from kezuri.cli.main import app
from kezuri.data import from_tensors

README = Path("README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What the reader is said to have: a trained `model`, its `data`, some `images`."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    patterns = torch.randn(4, 3, 8, 8, generator=draw)
    images = patterns[labels] + 0.4 * torch.randn(400, 3, 8, 8, generator=draw)
    data = from_tensors((images[:300], labels[:300]), (images[300:], labels[300:]), validation=100)
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
    fit(model, data, Training(epochs=4, lr=0.05), seed=0)
    return {"model": model, "data": data, "images": images[:2]}


def test_there_are_blocks_to_run():
    assert len(BLOCKS) == 4 and any("cut(" in block for block in BLOCKS)


@pytest.mark.parametrize("block", BLOCKS, ids=["compress", "channels", "integers", "pieces"])
def test_the_python_runs(block, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(block, "README.md", "exec"), {"kezuri": kezuri, **names})


def test_every_command_named_exists_and_every_command_is_named():
    named = set(re.findall(r"kezuri ([\w-]+)", README)) | set(re.findall(r"· `([\w-]+)`", README))
    assert set(get_command(app).commands) <= named


def test_links_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert links
    for link in links:
        assert Path(link).exists(), link
