"""The data that comes with the package, and the large sets where KEZURI_DATA has them."""

import hashlib
import os
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from kezuri.data.catalog import Arrays, content_of, find, named
from kezuri.data.datasets import data_names, load_data
from kezuri.data.known import _fashion_mini

ROOT = Path(os.environ["KEZURI_DATA"]) if os.environ.get("KEZURI_DATA") else None
needs_data = pytest.mark.skipif(ROOT is None, reason="KEZURI_DATA is not set")
BUNDLED = _fashion_mini().home or Path()


def test_the_names() -> None:
    assert data_names() == ("fashion-mini", "mnist", "fashion-mnist", "cifar10", "cifar100")


@pytest.mark.parametrize("name", data_names())
def test_names_and_normalisation_fit(name: str) -> None:
    known = named[name]
    assert len(known.classes) == len(set(known.classes)) == (100 if name == "cifar100" else 10)
    assert len(known.mean) == len(known.std) == (3 if name.startswith("cifar") else 1)
    assert list(known.classes) == sorted(known.classes) or not name.startswith("cifar")


def test_fashion_mini_is_what_it_was_made_as() -> None:
    arrays, _ = find("fashion-mini", named["fashion-mini"], root=None, download=False)
    assert hashlib.sha256(content_of(arrays)).hexdigest() == (
        "d5b91c929ef64cdf3fac6a13820932f698037ef77030a9584f3d6499a1ccee00"
    )
    assert arrays.train_images.shape == (10_000, 1, 28, 28)
    assert arrays.test_images.shape == (2_000, 1, 28, 28)
    assert np.bincount(arrays.train_labels).tolist() == [1000] * 10
    assert np.bincount(arrays.test_labels).tolist() == [200] * 10


def test_fashion_mini_is_small_and_states_its_licence() -> None:
    assert (BUNDLED / "fashion_mini.npz").stat().st_size < 6_000_000
    assert "MIT License" in (BUNDLED / "LICENSE").read_text()
    assert "Zalando" in (BUNDLED / "LICENSE").read_text()


def test_fashion_mini_loads_in_three_parts() -> None:
    data = load_data("fashion-mini")
    assert (len(data.train), len(data.validation)) == (9_000, 1_000)
    assert data.test is not None
    assert len(data.test) == 2_000
    assert torch.bincount(data.validation.labels).tolist() == [100] * 10
    assert data.classes[9] == "Ankle boot"
    assert data.image_shape == (1, 28, 28)


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
def test_real_data_has_its_published_counts_and_moments(name: str) -> None:
    known = named[name]
    arrays, _ = find(name, known, root=ROOT, download=False)
    train = 60_000 if "mnist" in name else 50_000
    assert arrays.train_images.shape[0] == train
    assert arrays.test_images.shape[0] == 10_000
    if name != "mnist":
        assert set(np.bincount(arrays.train_labels)) == {train // len(known.classes)}
        assert set(np.bincount(arrays.test_labels)) == {10_000 // len(known.classes)}
    for channel, (mean, std) in enumerate(zip(known.mean, known.std, strict=True)):
        pixels = arrays.train_images[:, channel] / 255
        assert pixels.mean() == pytest.approx(mean, abs=1e-4)
        assert pixels.std() == pytest.approx(std, abs=1e-4)


@needs_data
@pytest.mark.slow
def test_fashion_mini_is_rebuilt_byte_for_byte(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "tools" / "make_fashion_mini.py"
    assert ROOT is not None
    runpy.run_path(str(script))["main"](ROOT / "fashion-mnist", tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (BUNDLED / "fashion_mini.npz").read_bytes()


def test_the_script_takes_the_first_of_each_class() -> None:
    script = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "make_fashion_mini.py"))
    images = np.arange(7, dtype=np.uint8)[:, None, None, None]
    chosen, labels = script["first_of_each"](images, np.array([1, 0, 1, 1, 0, 0, 2], np.uint8), 2)
    assert chosen.ravel().tolist() == [0, 1, 2, 4, 6]
    assert labels.tolist() == [1, 0, 1, 0, 2]
    arrays = Arrays(chosen, labels, images, labels)
    assert script["pack"](arrays) == script["pack"](arrays)
