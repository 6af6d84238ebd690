import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kezuri.core.errors import DataError
from kezuri.data.catalog import Arrays, Bundled, CifarFiles, IdxFiles, Known, PlanesFile, content_of, find
from kezuri.data.sources import Download, cache_folder

RNG = np.random.default_rng(0)
GREY = {
    "train-images-idx3-ubyte": RNG.integers(0, 256, (20, 6, 5), np.uint8),
    "train-labels-idx1-ubyte": np.arange(20, dtype=np.uint8) % 4,
    "t10k-images-idx3-ubyte": RNG.integers(0, 256, (8, 6, 5), np.uint8),
    "t10k-labels-idx1-ubyte": np.arange(8, dtype=np.uint8) % 4,
}
COLOUR = RNG.integers(0, 256, (12, 3, 32, 32), np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 2


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def small(originals: SimpleNamespace) -> Known:
    """A data set of the form of MNIST, of 28 images."""
    hashes = [sha256(originals.idx(array)) for array in GREY.values()]
    return Known(
        title="Small",
        classes=("a", "b", "c", "d"),
        mean=(0.5,),
        std=(0.3,),
        forms=(IdxFiles((hashes[0], hashes[1], hashes[2], hashes[3])),),
        folders=("small", ""),
    )


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("inside", ["small", ""])
def test_idx_files_are_found_zipped_or_not(
    originals: SimpleNamespace, tmp_path: Path, zipped: bool, inside: str
) -> None:
    originals.write_idx(tmp_path / "root" / inside, GREY, zipped=zipped)
    arrays, source = find("small", small(originals), root=tmp_path / "root", download=False)
    assert np.array_equal(arrays.train_images, GREY["train-images-idx3-ubyte"][:, None])
    assert np.array_equal(arrays.test_images, GREY["t10k-images-idx3-ubyte"][:, None])
    assert arrays.train_labels.tolist() == GREY["train-labels-idx1-ubyte"].tolist()
    assert arrays.test_labels.tolist() == GREY["t10k-labels-idx1-ubyte"].tolist()
    assert source == "Small, local files"


def test_the_first_folder_that_holds_it_counts(
    originals: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = small(originals)
    originals.write_idx(cache_folder() / "data" / "small", GREY)
    assert find("small", known, root=None, download=False)[0].train_labels.size == 20
    (tmp_path / "data" / "small").mkdir(parents=True)
    (tmp_path / "data" / "small" / "train-images-idx3-ubyte").write_bytes(b"an empty shell")
    assert find("small", known, root=None, download=False)[0].train_labels.size == 20
    monkeypatch.setenv("KEZURI_DATA", str(tmp_path / "named"))
    originals.write_idx(tmp_path / "named", {**GREY, "t10k-labels-idx1-ubyte": np.zeros(8)})
    with pytest.raises(DataError, match=r"named/t10k-labels-idx1-ubyte\.gz is damaged or another file"):
        find("small", known, root=None, download=False)


def test_nowhere_lists_every_folder_and_address(originals: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    originals.write_idx(tmp_path / "data", {"train-images-idx3-ubyte": GREY["train-images-idx3-ubyte"]})
    addresses = ("http://127.0.0.1:1/a", "http://127.0.0.1:1/b")
    download = Download("train-images-idx3-ubyte.gz", addresses, "0" * 64)
    known = replace(small(originals), downloads=(download,))
    with pytest.raises(DataError) as caught:
        find("small", known, root=None, download=True)
    lines = str(caught.value).splitlines()
    assert lines[0] == "the data set 'small' (Small) was not found; tried:"
    assert lines[1] == f"  {Path('data/small')}: no such folder"
    assert lines[2].startswith("  data: no train-labels-idx1-ubyte[.gz], t10k-images-idx3-ubyte[.gz]")
    assert lines[3] == f"  {cache_folder() / 'data' / 'small'}: no such folder"
    assert lines[5].startswith("  http://127.0.0.1:1/a: ")
    assert lines[6].startswith("  http://127.0.0.1:1/b: ")
    with pytest.raises(DataError, match="downloading was not allowed"):
        find("small", known, root=tmp_path, download=False)


def cifar(originals: SimpleNamespace, folder: Path, form: str) -> CifarFiles:
    """A CIFAR of 8 training and 4 test images of 2 classes."""
    parts = {"first": slice(0, 4), "second": slice(4, 8), "test": slice(8, 12)}
    files = {}
    for name, part in parts.items():
        if form == "binary":
            files[name] = originals.records(COLOUR[part], LABELS[part])
        else:
            files[name] = originals.python2_pickle(
                {"data": COLOUR[part].reshape(4, -1), "labels": LABELS[part].tolist()}
            )
    (folder / "extracted").mkdir(parents=True)
    for name, content in files.items():
        (folder / "extracted" / name).write_bytes(content)
    originals.tar_gz(folder / "archive.tar.gz", {f"cifar/{name}": content for name, content in files.items()})
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    return CifarFiles(
        places=("extracted", "archive.tar.gz"),
        train={"first": md5["first"], "second": md5["second"]},
        test={"test": md5["test"]},
        labels=None if form == "binary" else "labels",
        each=(4, 2),
    )


@pytest.mark.parametrize("form", ["python", "binary"])
@pytest.mark.parametrize("place", ["extracted", "archive.tar.gz", "loose"])
def test_cifar_is_read_in_all_its_forms(
    originals: SimpleNamespace, tmp_path: Path, form: str, place: str
) -> None:
    files = cifar(originals, tmp_path / "made", form)
    folder = tmp_path / "given"
    folder.mkdir()
    if place == "loose":
        (tmp_path / "made" / "extracted").rename(tmp_path / "loose")
        folder = tmp_path / "loose"
    else:
        (tmp_path / "made" / place).rename(folder / place)
    arrays = files.read(folder)
    assert isinstance(arrays, Arrays)
    assert np.array_equal(arrays.train_images, COLOUR[:8])
    assert np.array_equal(arrays.test_images, COLOUR[8:])
    assert arrays.train_labels.tolist() == LABELS[:8].tolist()
    assert arrays.test_labels.tolist() == LABELS[8:].tolist()


def test_cifar_that_is_not_there_says_what_was_looked_for(originals: SimpleNamespace, tmp_path: Path) -> None:
    files = cifar(originals, tmp_path / "made", "binary")
    assert files.read(tmp_path) == "extracted or archive.tar.gz"


def test_a_changed_byte_of_cifar_is_noticed(originals: SimpleNamespace, tmp_path: Path) -> None:
    files = cifar(originals, tmp_path, "binary")
    changed = bytearray((tmp_path / "extracted" / "second").read_bytes())
    changed[100] ^= 1
    (tmp_path / "extracted" / "second").write_bytes(changed)
    with pytest.raises(DataError, match="extracted/second is damaged or another file: its MD5"):
        files.read(tmp_path)


def test_class_counts_catch_what_no_hash_does(originals: SimpleNamespace, tmp_path: Path) -> None:
    files = cifar(originals, tmp_path, "binary")
    unhashed = replace(files, train=dict.fromkeys(files.train))
    assert isinstance(unhashed.read(tmp_path), Arrays)
    changed = bytearray((tmp_path / "extracted" / "second").read_bytes())
    changed[0] = 1
    (tmp_path / "extracted" / "second").write_bytes(changed)
    with pytest.raises(DataError, match="hold 3 to 5 images a class, expected 4"):
        unhashed.read(tmp_path)


def test_planes_are_decoded_and_checked(originals: SimpleNamespace, tmp_path: Path) -> None:
    images = COLOUR[:, :, :6, :5]
    np.savez_compressed(tmp_path / "set.npz", **originals.plane_codes(images), labels=LABELS)
    form = PlanesFile("set.npz", sha256(images.tobytes()), sha256(LABELS.tobytes()), train=8)
    for _ in range(2):
        arrays = form.read(tmp_path)
        assert isinstance(arrays, Arrays)
        assert np.array_equal(arrays.train_images, images[:8])
        assert np.array_equal(arrays.test_images, images[8:])
        assert arrays.test_labels.tolist() == LABELS[8:].tolist()
    assert len(list((cache_folder() / "decoded").iterdir())) == 1
    with pytest.raises(DataError, match=r"set\.npz \(labels\) is damaged"):
        replace(form, labels="0" * 64).read(tmp_path)
    with pytest.raises(DataError, match="set is damaged"):
        replace(form, images="0" * 64).read(tmp_path)
    assert form.read(tmp_path / "nowhere") == "set.npz"


def test_bundled_files_are_checked(tmp_path: Path) -> None:
    arrays = Arrays(COLOUR[:8], LABELS[:8], COLOUR[8:], LABELS[8:])
    np.savez(tmp_path / "some.npz", **vars(arrays))
    read = Bundled("some.npz", sha256(content_of(arrays))).read(tmp_path)
    assert isinstance(read, Arrays)
    assert np.array_equal(read.test_images, COLOUR[8:])
    with pytest.raises(DataError, match=r"some\.npz is damaged or another file"):
        Bundled("some.npz", "0" * 64).read(tmp_path)
