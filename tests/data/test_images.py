from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kezuri.core.errors import DataError, UnknownName, UsageError
from kezuri.data import streams
from kezuri.data.datasets import load_data
from kezuri.data.images import ImageFiles, read_image, scan
from kezuri.data.streams import DatasetPart


def save(path: Path, size: tuple[int, int] = (12, 10), mode: str = "RGB", seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(path)


def folder(root: Path, per_class: int = 4, classes: tuple[str, ...] = ("cat", "dog"), **options: Any) -> Path:
    for label, name in enumerate(classes):
        for number in range(per_class):
            save(root / name / f"{number:03}.png", seed=100 * label + number, **options)
    return root


def test_pixels_are_those_of_the_files(tmp_path: Path) -> None:
    root = folder(tmp_path / "pets")
    found = scan(root)
    assert found.classes == ("cat", "dog")
    assert found.train.targets == (0,) * 4 + (1,) * 4
    image, label = found.train[5]
    with Image.open(root / "dog" / "001.png") as opened:
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.array(opened))
    assert label == 1
    assert all(
        torch.equal(a, found.train[i][0]) for i, (a, _) in enumerate(found.train.__getitems__(range(8)))
    )


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG", "bmp", "webp"])
def test_every_kind_of_file_is_found(tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        save(tmp_path / name / f"one.{suffix}")
        (tmp_path / name / "notes.txt").write_text("not an image")
        (tmp_path / name / ".hidden").mkdir()
    found = scan(tmp_path)
    assert len(found.train) == 2
    assert found.train[0][0].shape == (3, 10, 12)


def test_three_folders_are_three_parts(tmp_path: Path) -> None:
    folder(tmp_path / "train", 6)
    folder(tmp_path / "val", 2)
    folder(tmp_path / "test", 3)
    data = load_data(str(tmp_path))
    assert (len(data.train), len(data.validation), len(data.test or ())) == (12, 4, 6)
    assert data.classes == ("cat", "dog")
    assert data.describe()["images"] == {"train": 12, "validation": 4, "test": 6}


def test_validation_is_carved_where_there_is_only_train_and_test(tmp_path: Path) -> None:
    folder(tmp_path / "train", 10)
    folder(tmp_path / "test", 3)
    data = load_data(str(tmp_path), validation=0.2)
    assert (len(data.train), len(data.validation), len(data.test or ())) == (16, 4, 6)
    assert torch.bincount(data.validation.labels).tolist() == [2, 2]


def test_train_alone_has_no_test_part(tmp_path: Path) -> None:
    folder(tmp_path / "train", 10)
    data = load_data(str(tmp_path), validation=0.2)
    assert data.test is None
    assert "test" not in data.describe()["images"]


def test_classes_alone_are_divided_by_seed(tmp_path: Path) -> None:
    root = folder(tmp_path / "pets", 20)
    data = load_data("pets")
    again = load_data("pets", root=tmp_path)
    assert data.name == "pets"
    assert (len(data.train), len(data.validation), len(data.test or ())) == (29, 3, 8)
    assert data.fingerprint == again.fingerprint
    assert data.fingerprint != load_data(str(root), seed=1).fingerprint
    images = torch.cat(
        [p.batches(99).__next__().images for p in (data.train, data.validation, data.test) if p is not None]
    )
    assert len({image.numpy().tobytes() for image in images}) == 40


def test_grey_images_keep_one_channel_and_one_colour_image_makes_three(tmp_path: Path) -> None:
    folder(tmp_path, mode="L")
    assert load_data(str(tmp_path), validation=1).image_shape == (1, 10, 12)
    save(tmp_path / "cat" / "last.png", mode="RGB")
    assert load_data(str(tmp_path), validation=1).image_shape == (3, 10, 12)


def test_palettes_transparency_and_black_and_white_are_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / name / "rgb.png")
        with Image.open(tmp_path / name / "rgb.png") as opened:
            opened.quantize(8).save(tmp_path / name / "palette.png", transparency=bytes([0, 255] * 4))
            opened.convert("RGBA").save(tmp_path / name / "alpha.png")
            opened.convert("1").save(tmp_path / name / "bits.png")
    found = scan(tmp_path)
    assert {tuple(found.train[place][0].shape) for place in range(8)} == {(3, 10, 12)}


def test_the_most_common_size_counts(tmp_path: Path) -> None:
    folder(tmp_path, 3)
    save(tmp_path / "cat" / "large.png", size=(90, 31))
    save(tmp_path / "dog" / "small.png", size=(5, 5))
    found = scan(tmp_path)
    assert {tuple(found.train[place][0].shape) for place in range(len(found.train))} == {(3, 10, 12)}


def test_large_images_become_224_from_the_middle(tmp_path: Path) -> None:
    pixels = np.zeros((300, 600), np.uint8)
    pixels[:, 300:] = 200
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "wide.png")
    image, _ = scan(tmp_path).train[0]
    assert image.shape == (1, 224, 224)
    assert image[0, 0, :110].max() == 0
    assert image[0, 0, 114:].min() == 200


def test_a_wanted_size_is_kept_to(tmp_path: Path) -> None:
    folder(tmp_path, 8)
    assert load_data(str(tmp_path), size=7).image_shape == (3, 7, 7)
    assert load_data(str(tmp_path), size=40).image_shape == (3, 40, 40)
    with pytest.raises(UsageError, match="size is the side of the images in pixels, got 0"):
        load_data(str(tmp_path), size=0)


def test_too_much_for_memory_is_streamed_with_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path, 20)
    held = load_data(str(tmp_path))
    monkeypatch.setattr(streams, "IN_MEMORY", 1000)
    streamed = load_data(str(tmp_path))
    assert isinstance(streamed.train, DatasetPart)
    for a, b in zip(held.train.batches(8, seed=1), streamed.train.batches(8, seed=1), strict=True):
        assert torch.allclose(a.images, b.images, atol=1e-5)
        assert torch.equal(a.targets, b.targets)


@pytest.mark.parametrize("damage", ["text", "empty", "cut", "deep"])
def test_an_unreadable_image_is_named(tmp_path: Path, damage: str) -> None:
    folder(tmp_path, 6)
    bad = tmp_path / "dog" / "003.png"
    if damage == "text":
        bad.write_text("not an image at all")
    elif damage == "empty":
        bad.write_bytes(b"")
    elif damage == "cut":
        bad.write_bytes(bad.read_bytes()[:200])
    else:
        Image.fromarray(np.zeros((10, 12), np.uint16)).save(bad)
    with pytest.raises(DataError, match=r"dog/003\.png (cannot be read as an image|has more than 8 bits)"):
        load_data(str(tmp_path))


def test_folders_that_are_no_data_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 2 classes, it holds no folder"):
        scan(tmp_path)
    folder(tmp_path, classes=("cat",))
    with pytest.raises(DataError, match="at least 2 classes, it holds cat"):
        scan(tmp_path)
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match=r"dog holds no image \(\.png"):
        scan(tmp_path)


def test_a_class_only_the_test_data_has_is_refused(tmp_path: Path) -> None:
    folder(tmp_path / "train")
    folder(tmp_path / "test", classes=("cat", "emu"))
    with pytest.raises(DataError, match="test holds classes that the training data lacks: emu"):
        scan(tmp_path)
    (tmp_path / "validation").mkdir()
    with pytest.raises(DataError, match="validation holds no folder of a class"):
        scan(tmp_path)


def test_a_file_that_went_away_is_named(tmp_path: Path) -> None:
    folder(tmp_path)
    train = scan(tmp_path).train
    assert isinstance(train, ImageFiles)
    assert train.frame is not None
    train.paths[2].unlink()
    with pytest.raises(DataError, match=r"cat/002\.png cannot be read"):
        read_image(train.paths[2], train.frame)


@pytest.mark.parametrize("ref", ["./pets", "../here/pets", "~/pets", "pets"])
def test_a_path_is_found_whatever_folder_data_sets_lie_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ref: str
) -> None:
    here = tmp_path / "here"
    folder(here / "pets", 9)
    folder(tmp_path / "sets" / "dogs", 8)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(here))
    root = tmp_path / "sets"
    assert load_data(ref, root=root).fingerprint == load_data(str(here / "pets")).fingerprint
    assert load_data("dogs", root=root).fingerprint == load_data(str(root / "dogs")).fingerprint


def test_of_two_folders_the_one_beside_the_data_sets_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path / "pets", 9)
    folder(tmp_path / "sets" / "pets", 8)
    monkeypatch.chdir(tmp_path)
    assert len(load_data("pets", root=tmp_path / "sets").train) < len(load_data("./pets", root="sets").train)


def test_all_places_that_were_tried_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"there is no folder {tmp_path}/some/cats nor some/cats"):
        load_data("some/cats", root=tmp_path)
    with pytest.raises(UnknownName, match=f"; there is no folder {tmp_path}/cats nor cats either"):
        load_data("cats", root=tmp_path)
    with pytest.raises(DataError, match=r"there is no folder cats$"):
        load_data("./cats", root=tmp_path)
