import gzip
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kezuri.core.errors import DataError
from kezuri.data.formats import decode_planes, read_idx, read_npz

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_is_read_back(originals: SimpleNamespace, tmp_path: Path, zipped: bool) -> None:
    content = originals.idx(IMAGES)
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(content) if zipped else content)
    assert np.array_equal(read_idx(path), IMAGES)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: gzip.compress(content)[:-12], "cut short"),
        (lambda content: gzip.compress(content)[:-8] + bytes(8), "cannot be read"),
        (lambda content: b"PNG!" + content, "not an idx file of bytes: it starts with 50 4e 47 21"),
        (lambda content: content[:2] + b"\x0d" + content[3:], "not an idx file of bytes"),
        (lambda _: b"", "it starts with nothing"),
        (lambda content: content[:9], "9 bytes, its header alone needs 16"),
        (lambda content: content[:-1], r"shape \(5, 4, 3\) needs 60 bytes, it holds 59"),
        (lambda content: content + b"\0", "it holds 61"),
    ],
)
def test_damaged_idx_is_named_with_what_is_wrong(
    originals: SimpleNamespace, tmp_path: Path, damage: object, said: str
) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(originals.idx(IMAGES)))  # type: ignore[operator]
    with pytest.raises(DataError, match=said) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(
    images=st.tuples(st.integers(1, 3), st.just(3), st.integers(1, 5), st.integers(1, 5)).flatmap(
        lambda shape: arrays(np.uint8, shape)
    )
)
def test_planes_decode_to_the_images_they_were_made_from(
    originals: SimpleNamespace, images: np.ndarray
) -> None:
    assert np.array_equal(decode_planes(originals.plane_codes(images)), images)


def test_planes_decode_across_blocks(originals: SimpleNamespace) -> None:
    few = np.random.default_rng(1).integers(0, 256, (6, 3, 3, 4), np.uint8)
    codes = {name: np.tile(plane, (1500, 1, 1)) for name, plane in originals.plane_codes(few).items()}
    assert np.array_equal(decode_planes(codes), np.tile(few, (1500, 1, 1, 1)))


def test_planes_that_do_not_belong_together_are_refused(originals: SimpleNamespace) -> None:
    codes = originals.plane_codes(np.zeros((2, 3, 4, 4), np.uint8))
    for wrong in (
        {**codes, "bg": codes["bg"][:1]},
        {**codes, "g": codes["g"].astype(np.int16)},
        {name: codes[name] for name in ("g", "rg")},
        {},
    ):
        with pytest.raises(DataError, match="planes g, rg, bg must be uint8"):
            decode_planes(wrong)


def test_npz_is_read_whole_or_in_part(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    np.savez_compressed(path, a=IMAGES, b=np.arange(3))
    assert set(read_npz(path)) == {"a", "b"}
    only = read_npz(path, only=("b",))
    assert list(only) == ["b"]
    assert only["b"].tolist() == [0, 1, 2]


def test_npz_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hostile.npz"
    objects = np.empty(1, dtype=object)
    objects[0] = {"anything": 1}
    np.savez(path, a=objects)
    with pytest.raises(DataError, match=r"hostile\.npz is damaged or not an \.npz file"):
        read_npz(path)


@pytest.mark.parametrize("how", ["missing", "cut", "flipped"])
def test_damaged_npz_is_named(tmp_path: Path, how: str) -> None:
    path = tmp_path / "some.npz"
    if how != "missing":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
            np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 9, 5000))
            archive.write(tmp_path / "a.npy", "a.npy")
        content = bytearray(path.read_bytes())
        if how == "cut":
            del content[-30:]
        else:
            content[400] ^= 0xFF
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"some\.npz"):
        read_npz(path)
