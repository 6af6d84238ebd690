import gzip
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kezuri.core.errors import DataError
from kezuri.data.cifar import parse_binary, parse_pickle, read_members

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), np.uint8)
LABELS = [3, 1, 4, 1, 5, 9]


def test_a_pickle_of_python_2_is_read(originals: SimpleNamespace) -> None:
    content = originals.python2_pickle(
        {"batch_label": b"training batch 1 of 5", "labels": LABELS, "data": IMAGES.reshape(6, -1)}
    )
    careless = pickle.loads(content, encoding="bytes")
    assert np.array_equal(careless[b"data"], IMAGES.reshape(6, -1))
    images, labels = parse_pickle(content, "data_batch_1", "labels")
    assert np.array_equal(images, IMAGES)
    assert labels.tolist() == LABELS


def test_a_pickle_saved_anew_by_python_3_is_read() -> None:
    content = pickle.dumps({"data": IMAGES.reshape(6, -1), "fine_labels": LABELS}, protocol=4)
    images, labels = parse_pickle(content, "train", "fine_labels")
    assert np.array_equal(images, IMAGES)
    assert labels.tolist() == LABELS


def test_nothing_in_a_pickle_is_executed(originals: SimpleNamespace, tmp_path: Path) -> None:
    content = originals.hostile_pickle(tmp_path / "careful")
    with pytest.raises(DataError, match=r"asks for (posix|nt).mkdir, only a numpy array is allowed"):
        parse_pickle(content, "data_batch_1", "labels")
    assert not (tmp_path / "careful").exists()
    pickle.loads(originals.hostile_pickle(tmp_path / "careless"))
    assert (tmp_path / "careless").exists(), "the payload must be one that works"


@pytest.mark.parametrize(
    "module", ["builtins\neval", "os\nsystem", "numpy\nload", "numpy.core.multiarray\nfrombuffer"]
)
def test_no_other_name_is_resolved(module: str) -> None:
    with pytest.raises(DataError, match="only a numpy array is allowed"):
        parse_pickle(b"\x80\x02c" + module.encode() + b"\n.", "data_batch_1", "labels")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda write: write({"labels": LABELS, "data": IMAGES.reshape(6, -1)})[:-2000],
            "pickle data was truncated",
        ),
        (lambda write: write({"labels": LABELS}), "no entry 'data'"),
        (lambda write: write({"data": IMAGES.reshape(6, -1)}), "no entry 'labels'"),
        (lambda write: write({"labels": LABELS[:5], "data": IMAGES.reshape(6, -1)}), "damaged"),
        (lambda write: write({"labels": LABELS, "data": IMAGES.reshape(6, -1)[:, :100]}), "damaged"),
        (lambda write: write({"labels": [300] * 6, "data": IMAGES.reshape(6, -1)}), "damaged"),
        (lambda _: pickle.dumps([1, 2]), "damaged"),
        (lambda _: pickle.dumps({"data": IMAGES.astype(float), "labels": [0] * 6}), "f8, expected u1"),
        (lambda _: b"", "damaged"),
        (lambda _: b"not a pickle", "CIFAR pickle"),
    ],
)
def test_a_damaged_pickle_is_named(originals: SimpleNamespace, make: object, said: str) -> None:
    content = make(originals.python2_pickle)  # type: ignore[operator]
    with pytest.raises(DataError, match=f"data_batch_1 .*{said}"):
        parse_pickle(content, "data_batch_1", "labels")


@pytest.mark.parametrize("label_bytes", [1, 2])
def test_binary_records_are_read(originals: SimpleNamespace, label_bytes: int) -> None:
    fine = np.array(LABELS)
    coarse = [fine + 40] if label_bytes == 2 else []
    images, labels = parse_binary(originals.records(IMAGES, *coarse, fine), "train.bin", label_bytes)
    assert np.array_equal(images, IMAGES)
    assert labels.tolist() == LABELS


@pytest.mark.parametrize("content", [b"", b"\0" * 3072, b"\0" * 6145])
def test_binary_of_the_wrong_size_is_named(content: bytes) -> None:
    with pytest.raises(DataError, match=r"test_batch\.bin has the wrong size"):
        parse_binary(content, "test_batch.bin", 1)


def test_members_come_from_a_folder_or_an_archive(originals: SimpleNamespace, tmp_path: Path) -> None:
    held = {"train": b"one", "test": b"two", "meta": b"three"}
    originals.tar_gz(tmp_path / "c.tar.gz", {f"cifar/{name}": content for name, content in held.items()})
    (tmp_path / "cifar").mkdir()
    for name, content in held.items():
        (tmp_path / "cifar" / name).write_bytes(content)
    wanted = {"train": b"one", "test": b"two"}
    assert read_members(tmp_path / "cifar", ["train", "test"]) == wanted
    assert read_members(tmp_path / "c.tar.gz", ["train", "test"]) == wanted
    with pytest.raises(DataError, match=r"c\.tar\.gz does not hold valid"):
        read_members(tmp_path / "c.tar.gz", ["train", "valid"])
    with pytest.raises(DataError, match="valid cannot be read: No such file"):
        read_members(tmp_path / "cifar", ["train", "valid"])


@pytest.mark.parametrize("keep", [0, 40, -20])
def test_a_damaged_archive_is_named(originals: SimpleNamespace, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "c.tar.gz"
    originals.tar_gz(path, {"cifar/train": np.random.default_rng(0).bytes(50_000)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"c\.tar\.gz"):
        read_members(path, ["train"])


def test_something_else_called_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.tar.gz"
    path.write_bytes(gzip.compress(b"hello" * 1000))
    with pytest.raises(DataError, match=r"c\.tar\.gz is damaged"):
        read_members(path, ["train"])
