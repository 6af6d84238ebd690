import lzma
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kezuri.core.errors import DataError
from kezuri.measure.size import file_sizes, weights_size
from kezuri.model.zoo import zoo


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(100, 100, bias=False)
        self.other = nn.Linear(100, 100, bias=False)
        self.other.weight = self.one.weight


def test_a_file_is_measured_as_it_is_and_compressed(onnx_file: Path) -> None:
    raw, packed = file_sizes(onnx_file)
    assert raw.value == onnx_file.stat().st_size > 16_000_000
    assert packed.value < 10_000
    assert (raw.metric, raw.unit) == (packed.metric, packed.unit) == ("size", "bytes")
    assert [m.conditions for m in (raw, packed)] == [{"format": "onnx"}, {"format": "onnx.xz"}]


def test_compressed_bytes_are_those_of_xz(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 100)
    assert file_sizes(tmp_path / "a.bin")[1].value == len(lzma.compress(bytes(range(256)) * 100))


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*a\.onnx"):
        file_sizes(tmp_path / "a.onnx")


@pytest.mark.parametrize("name", ["lenet300_100", "resnet8"])
def test_weights_take_what_safetensors_writes(tmp_path: Path, name: str) -> None:
    model = zoo[name]()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    measured = weights_size(model)
    assert measured.value == (tmp_path / "w.safetensors").stat().st_size
    assert measured.conditions == {"format": "safetensors"}


def test_shared_weights_count_once() -> None:
    assert 40_000 < weights_size(Tied()).value < 40_200


def test_weights_that_lie_transposed_in_memory_are_measured() -> None:
    model = nn.Linear(30, 20)
    model.weight = nn.Parameter(torch.zeros(30, 20).T)
    assert weights_size(model).value == weights_size(nn.Linear(30, 20)).value


def test_halved_channels_quarter_the_bytes() -> None:
    whole, half = (
        weights_size(zoo["vgg16_bn"](width=0.5)).value,
        weights_size(zoo["vgg16_bn"](width=0.25)).value,
    )
    assert half / whole == pytest.approx(0.25, abs=0.01)
