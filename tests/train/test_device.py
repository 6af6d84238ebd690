import pytest
import torch

from kezuri.core.errors import ResourceError, UsageError
from kezuri.train.device import available_devices, choose_device, choose_dtype, out_of_memory


def test_auto_is_one_of_those_there() -> None:
    assert str(choose_device("auto")) in available_devices()
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else choose_device().type)


def test_takes_names_and_devices() -> None:
    assert choose_device("cpu") == choose_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "", "CPU"])
def test_an_unknown_device_is_answered_with_those_there(name: str) -> None:
    with pytest.raises(UsageError, match=rf"no device '{name}'.*have: auto, cpu"):
        choose_device(name)


def test_precision_on_the_cpu() -> None:
    cpu = torch.device("cpu")
    assert choose_dtype("float32", cpu) == torch.float32
    assert choose_dtype("bfloat16", cpu) == torch.bfloat16
    assert choose_dtype("float16", cpu) == torch.float16
    assert choose_dtype("auto", cpu) in (torch.float32, torch.bfloat16)


def test_exhausted_memory_comes_with_advice() -> None:
    with pytest.raises(ResourceError, match=r"batches of 64 images; try batch_size 32"), out_of_memory(64):
        torch.empty(10**15)
    with pytest.raises(ResourceError, match="try batch_size 1"), out_of_memory(1):
        raise MemoryError


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), out_of_memory(64):
        torch.ones(2, 3) @ torch.ones(2, 3)
