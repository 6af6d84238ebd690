import hashlib
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kezuri.core.errors import CorruptArtifact, DataError, ResourceError, UsageError
from kezuri.quantization.palette import Palettes, palettize
from kezuri.quantization.palette_file import HASH, HEADER, MAGIC, VERSION, read_palettes, write_palettes

lenient = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(
        value.dtype == other[name].dtype
        and value.shape == other[name].shape
        and bytes(value.reshape(-1).view(torch.uint8).numpy())
        == bytes(other[name].reshape(-1).view(torch.uint8).numpy())
        for name, value in one.items()
    )


def sparse(shape: tuple[int, ...], sparsity: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator)
    weight[torch.rand(shape, generator=generator) < sparsity] = 0
    return weight


def small() -> Palettes:
    return palettize({"w": sparse((40, 60), 0.0), "v": sparse((40, 60), 0.9), "b": torch.arange(5.0)}, 3)


def parts(content: bytes) -> tuple[dict, bytes]:
    _, _, packed, _, _ = HEADER.unpack_from(content)
    begin = HEADER.size + HASH
    return json.loads(zlib.decompress(content[begin : begin + packed])), content[begin + packed :]


def sealed(table: object, body: bytes, *, version: int = VERSION, stated: int | None = None) -> bytes:
    """A file that is whole by its hash, whatever it says."""
    raw = table if isinstance(table, bytes) else json.dumps(table).encode()
    packed = zlib.compress(raw)
    header = HEADER.pack(MAGIC, version, len(packed), len(raw) if stated is None else stated, len(body))
    return header + hashlib.sha256(header + packed + body).digest() + packed + body


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=4),
    st.floats(0, 1),
    st.integers(1, 8),
    st.integers(0, 2**31),
)
@lenient
def test_what_is_written_is_read_bit_for_bit(tmp_path: Path, shape, sparsity, bits, seed) -> None:
    palettes = palettize({"w": sparse(tuple(shape), sparsity, seed)}, bits)
    written = write_palettes(tmp_path / "m.kzp", palettes)
    found = read_palettes(written.path)
    assert equal(found.state(), palettes.state())
    palette, old = found.palettes["w"], palettes.palettes["w"]
    assert torch.equal(palette.centroids, old.centroids)
    assert torch.equal(palette.codes, old.codes)


def test_every_kind_of_tensor_comes_back(tmp_path: Path) -> None:
    state = {
        "weight": sparse((16, 16), 0.5),
        "double": torch.randn(3, dtype=torch.float64),
        "half": torch.tensor([1.5, float("nan"), -0.0], dtype=torch.float16),
        "brain": torch.randn(2, 2).to(torch.bfloat16),
        "count": torch.tensor(7),
        "byte": torch.arange(5, dtype=torch.uint8),
        "flags": torch.tensor([True, False, True]),
        "none": torch.zeros(0, 3),
        "turned": torch.randn(4, 6).t()[1:, :],
        "all zero": torch.zeros(70, 30),
    }
    state["again"] = state["weight"]
    palettes = palettize(state, {"weight": 4, "all zero": 2})
    found = read_palettes(write_palettes(tmp_path / "m.kzp", palettes).path)
    assert equal(found.state(), palettes.state())
    assert torch.equal(found.state()["turned"], state["turned"])
    assert found.same == {"again": "weight"}
    assert len(found.palettes["all zero"].centroids) == 0


def test_a_model_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(72, 5))
    palettes = palettize(model, {"0.weight": 8, "3.weight": 5})
    write_palettes(tmp_path / "m.kzp", palettes)
    model.load_state_dict(read_palettes(tmp_path / "m.kzp").state())
    assert model[3].weight.unique().numel() <= 32
    assert [path.name for path in tmp_path.iterdir()] == ["m.kzp"]


def test_says_where_the_bytes_are(tmp_path: Path) -> None:
    palettes = small()
    written = write_palettes(tmp_path / "m.kzp", palettes)
    assert written.size == written.path.stat().st_size
    assert written.size == written.table + written.plain + sum(layer.size for layer in written.layers)
    assert written.plain == 5 * 4
    dense, pruned = written.layers
    assert (dense.name, dense.values, dense.zeros, dense.colours) == ("w", 2400, 0, 8)
    assert pruned.zeros == int((palettes.palettes["v"].codes == -1).sum())
    assert dense.bits == 8 * dense.size / 2400
    assert 2 < dense.bits < 3.4
    assert pruned.bits < 0.9  # of 0.1 · 3 bits for codes, 0.47 for where they are, and the palette


@pytest.mark.parametrize(
    ("sparsity", "way"), [(0.0, "none"), (0.001, "symbol"), (0.3, "symbol"), (0.95, "runs")]
)
def test_zeros_are_written_in_the_way_that_takes_less(tmp_path: Path, sparsity: float, way: str) -> None:
    palettes = palettize({"w": sparse((100, 100), sparsity)}, 4)
    table, _ = parts(write_palettes(tmp_path / "m.kzp", palettes).path.read_bytes())
    assert table["tensors"][0]["zeros"] == way


def test_codes_take_at_most_their_entropy_and_a_bit(tmp_path: Path) -> None:
    palettes = palettize({"w": sparse((200, 200), 0.0)}, 5)
    counts = np.bincount(palettes.palettes["w"].codes.numpy().reshape(-1))
    shares = counts / counts.sum()
    entropy = -(shares * np.log2(shares)).sum()
    (layer,) = write_palettes(tmp_path / "m.kzp", palettes).layers
    coded = 8 * (layer.size - 4 * 32 - 16 - 3 * 40) / 40_000  # without palette, code lengths, ends of pieces
    assert entropy <= coded + 0.01
    assert coded < entropy + 0.1


@given(st.integers(0, 2**31), st.binary(min_size=1, max_size=9))
@lenient
def test_one_changed_byte_is_refused(tmp_path: Path, place, noise) -> None:
    content = bytearray(write_palettes(tmp_path / "m.kzp", small()).path.read_bytes())
    place %= len(content)
    before = bytes(content)
    content[place : place + len(noise)] = noise
    if bytes(content) == before:
        return
    (tmp_path / "m.kzp").write_bytes(content)
    with pytest.raises(CorruptArtifact, match=r"m\.kzp cannot be read"):
        read_palettes(tmp_path / "m.kzp")


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    content = write_palettes(tmp_path / "m.kzp", small()).path.read_bytes()
    for size in (0, 5, 8, HEADER.size, HEADER.size + HASH, len(content) // 2, len(content) - 1):
        (tmp_path / "m.kzp").write_bytes(content[:size])
        with pytest.raises(CorruptArtifact, match=r"no palette file|cut short|were written"):
            read_palettes(tmp_path / "m.kzp")


@given(st.integers(0, 2**31), st.binary(min_size=1, max_size=6))
@lenient
def test_tensors_made_up_with_the_right_hash_are_refused_or_fit(tmp_path: Path, place, noise) -> None:
    """Whoever writes a hash of their own gets an error of ours, or a state of the shapes that the table says."""
    table, body = parts(write_palettes(tmp_path / "m.kzp", small()).path.read_bytes())
    changed = bytearray(body)
    place %= len(body)
    changed[place : place + len(noise)] = noise
    (tmp_path / "m.kzp").write_bytes(sealed(table, bytes(changed)))
    try:
        state = read_palettes(tmp_path / "m.kzp").state()
    except CorruptArtifact:
        return
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "w": (40, 60),
        "v": (40, 60),
        "b": (5,),
    }


HUGE = 1 << 39


def hostile() -> dict[str, tuple[object, bytes]]:
    plain = {"kind": "plain", "name": "b", "dtype": "float32", "shape": [2]}
    coded = {"count": 4, "kinds": 1, "bytes": 3}
    one = b"\0\0\x80\x3f"
    entry = {"kind": "palette", "name": "w", "shape": [4], "colours": 1, "zeros": "none", "codes": coded}
    bits = b"\x01" + b"\x01\x00\x00"
    ones = {"count": 1, "kinds": 1, "bytes": 3}
    return {
        "not JSON": (b"{", b""),
        "nested": (b"[" * 100_000, b""),
        "no table": ([], b""),
        "another key": ({"tensors": [], "code": "import os"}, b""),
        "another kind": ({"tensors": [{"kind": "pickle", "name": "b"}]}, b""),
        "another type": ({"tensors": [{**plain, "dtype": "complex64"}]}, bytes(16)),
        "negative": ({"tensors": [{**plain, "shape": [-1]}]}, b""),
        "fraction": ({"tensors": [{**plain, "shape": [2.5]}]}, bytes(10)),
        "huge": ({"tensors": [{**plain, "shape": [HUGE, HUGE]}]}, bytes(8)),
        "huge and empty": ({"tensors": [{**plain, "shape": [0, HUGE, HUGE]}]}, b""),
        "too few bytes": ({"tensors": [plain]}, bytes(7)),
        "too many bytes": ({"tensors": [plain]}, bytes(9)),
        "twice": ({"tensors": [plain, plain]}, bytes(16)),
        "the same as nothing": ({"tensors": [{"kind": "same", "name": "a", "of": "b"}]}, b""),
        "the same as itself": ({"tensors": [{"kind": "same", "name": "a", "of": "a"}]}, b""),
        "no truth": ({"tensors": [{**plain, "dtype": "bool"}]}, b"\x01\x02"),
        "palette of NaN": ({"tensors": [entry]}, b"\0\0\xc0\x7f" + bits),
        "too few codes": ({"tensors": [{**entry, "shape": [5]}]}, one + bits),
        "too many values": (
            {"tensors": [{**entry, "shape": [HUGE], "codes": {**coded, "count": HUGE}}]},
            one + bits,
        ),
        "no colours": ({"tensors": [{**entry, "colours": 0}]}, bits),
        "too many colours": ({"tensors": [{**entry, "colours": 300}]}, bytes(1200) + bits),
        "no runs": ({"tensors": [{**entry, "zeros": "runs"}]}, one + bits),
        "runs of nothing": ({"tensors": [{**entry, "runs": ones}]}, one + bits + bits),
        "runs too short": (
            {"tensors": [{**entry, "zeros": "runs", "shape": [9], "runs": {**coded, "count": 5}}]},
            one + bits + bits,
        ),
    }


@pytest.mark.parametrize("case", hostile())
def test_tables_that_cannot_be_are_refused(tmp_path: Path, case: str) -> None:
    (tmp_path / "m.kzp").write_bytes(sealed(*hostile()[case]))
    with pytest.raises(CorruptArtifact, match=r"m\.kzp cannot be read: "):
        read_palettes(tmp_path / "m.kzp")


def test_the_cases_are_those_of_a_file_that_would_be_read(tmp_path: Path) -> None:
    """The hostile files differ from a good one in what they are named after."""
    coded = {"count": 4, "kinds": 1, "bytes": 3}
    entry = {"kind": "palette", "name": "w", "shape": [2, 2], "colours": 1, "zeros": "none", "codes": coded}
    (tmp_path / "m.kzp").write_bytes(sealed({"tensors": [entry]}, b"\0\0\x80\x3f\x01\x01\x00\x00"))
    assert torch.equal(read_palettes(tmp_path / "m.kzp").state()["w"], torch.ones(2, 2))


def test_a_table_that_grows_without_end_is_not_unpacked(tmp_path: Path) -> None:
    bomb = b"[" + b" " * (64 << 20) + b"]"
    for stated, told in ((len(bomb), "at most 8,388,608"), (100, "not as long")):
        (tmp_path / "m.kzp").write_bytes(sealed(bomb, b"", stated=stated))
        with pytest.raises(CorruptArtifact, match=told):
            read_palettes(tmp_path / "m.kzp")


def test_zeros_that_would_fill_the_memory_are_not_made(tmp_path: Path) -> None:
    palettes = palettize({"w": torch.zeros(1000, 1000)}, 2)
    written = write_palettes(tmp_path / "m.kzp", palettes)
    assert written.size < 1500
    assert not read_palettes(written.path).state()["w"].any()
    with pytest.raises(CorruptArtifact, match="it holds 1,000,000 numbers; at most 1,000 are read"):
        read_palettes(written.path, largest=1000)


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        read_palettes(tmp_path / "none.kzp")
    (tmp_path / "m.kzp").write_bytes(sealed({"tensors": []}, b"", version=2))
    with pytest.raises(CorruptArtifact, match="it has version 2, this Kezuri reads version 1"):
        read_palettes(tmp_path / "m.kzp")
    with pytest.raises(CorruptArtifact, match="cannot be read"):
        read_palettes(tmp_path)
    with pytest.raises(UsageError, match="z holds complex64; a palette file has float64, float32"):
        write_palettes(tmp_path / "m.kzp", Palettes({}, {"z": torch.zeros(1, dtype=torch.complex64)}, {}))
    with pytest.raises(ResourceError, match="cannot write"):
        write_palettes(tmp_path / "m.kzp" / "below.kzp", small())


def test_the_header_is_as_documented(tmp_path: Path) -> None:
    content = write_palettes(tmp_path / "m.kzp", small()).path.read_bytes()
    magic, version, packed, unpacked, body = struct.unpack_from("<8sIIIQ", content)
    assert (magic, version) == (b"\x89KZP\r\n\x1a\n", 1)
    table = content[60 : 60 + packed]
    assert len(content) == 60 + packed + body
    assert len(zlib.decompress(table)) == unpacked
    assert content[28:60] == hashlib.sha256(content[:28] + content[60:]).digest()
