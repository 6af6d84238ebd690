import errno
import json
import random
import resource
import signal
import warnings

import pytest
import torch

from kezuri.core.errors import KezuriWarning, ResourceError
from kezuri.train.checkpoint import Cadence, Checkpoints


def write(checkpoints: Checkpoints, value: float, size: int = 50) -> None:
    checkpoints.write({"w": torch.full((size,), value), "n": torch.tensor(3)}, {"step": int(value), "x": 0.1})


def test_gives_back_the_newest(tmp_path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.read() is None
    write(checkpoints, 1.0)
    write(checkpoints, 2.0)
    found = Checkpoints(tmp_path).read()
    assert found.about == {"step": 2, "x": 0.1}
    assert torch.equal(found.tensors["w"], torch.full((50,), 2.0)) and found.tensors["n"].dtype == torch.int64


def test_takes_tied_strided_and_empty_tensors(tmp_path) -> None:
    tied = torch.arange(6.0)
    strided = torch.arange(32.0).reshape(1, 2, 4, 4).to(memory_format=torch.channels_last)
    Checkpoints(tmp_path).write({"a": tied, "b": tied, "c": strided, "d": torch.empty(0)}, {})
    found = Checkpoints(tmp_path).read().tensors
    assert torch.equal(found["a"], tied) and torch.equal(found["b"], tied)
    assert torch.equal(found["c"], strided) and found["d"].shape == (0,)


def test_keeps_two_and_clears_up_after_killed_writes(tmp_path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for value in (1.0, 2.0, 3.0):
        write(checkpoints, value)
    (tmp_path / ".0004.safetensors.abc.part").write_bytes(b"cut short")
    (tmp_path / "0004.safetensors").write_bytes(b"no JSON came after it")
    assert Checkpoints(tmp_path).read().about["step"] == 3
    write(checkpoints, 4.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("0003.json", "0003.safetensors"),
        *("0004.json", "0004.safetensors"),
    ]


def test_every_flipped_byte_and_every_cut_is_noticed(tmp_path) -> None:
    checkpoints, dice = Checkpoints(tmp_path), random.Random(0)
    write(checkpoints, 1.0)
    write(checkpoints, 2.0)
    for _ in range(100):
        path = tmp_path / dice.choice(["0002.safetensors", "0002.safetensors", "0002.json"])
        whole = path.read_bytes()
        at = dice.randrange(len(whole))
        if dice.random() < 0.2:
            path.write_bytes(whole[:at])
        else:
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << dice.randrange(8)]) + whole[at + 1 :])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = Checkpoints(tmp_path).read()
        blank = path.suffix == ".json" and json.loads(whole) == _json_or_none(path)
        assert found.about["step"] == (2 if blank else 1), (path.name, at)
        assert bool(caught) is not blank
        path.write_bytes(whole)


def _json_or_none(path):
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


def test_a_damaged_one_is_named_and_the_one_before_stays(tmp_path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for value in (1.0, 2.0):
        write(checkpoints, value)
    (tmp_path / "0002.safetensors").write_bytes(b"")
    later = Checkpoints(tmp_path)
    with pytest.warns(KezuriWarning, match=r"0002\.safetensors is damaged.*the checkpoint before it"):
        assert later.read().about["step"] == 1
    write(later, 3.0)
    assert {path.stem for path in tmp_path.iterdir()} == {"0001", "0003"}


def test_with_all_damaged_training_starts_over(tmp_path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for value in (1.0, 2.0):
        write(checkpoints, value)
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    with pytest.warns(KezuriWarning) as caught:
        assert Checkpoints(tmp_path).read() is None
    newer, older = (str(warning.message) for warning in caught)
    assert "0002" in newer and "the checkpoint before it" in newer
    assert "0001" in older and "training starts over" in older


def test_a_full_disk_leaves_the_earlier_one(tmp_path) -> None:
    checkpoints = Checkpoints(tmp_path)
    write(checkpoints, 1.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(
            ResourceError, match=r"no room to write .*0002\.safetensors \([\d,]+ bytes\)"
        ) as caught:
            write(checkpoints, 2.0, size=100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert Checkpoints(tmp_path).read().about["step"] == 1
    write(checkpoints, 2.0, size=100_000)
    assert Checkpoints(tmp_path).read().about["step"] == 2


def test_the_cadence_bounds_the_cost() -> None:
    cadence = Cadence()
    assert cadence.due(epoch_ended=True) and not cadence.due(epoch_ended=False)
    cadence.wrote(3600.0)
    assert not cadence.due(epoch_ended=True)
