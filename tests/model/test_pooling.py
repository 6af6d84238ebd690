import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn
from torch.nn import functional as F

from kezuri.model.channels import operation
from kezuri.model.pooling import pool_quickly_, pooled


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(4, 11),
    st.integers(4, 11),
    st.booleans(),
    st.integers(0, 99),
)
def test_pools_bit_for_bit_as_torch_does(height, width, rows, columns, last, seed):
    images = torch.randn(2, 3, rows, columns, generator=torch.Generator().manual_seed(seed))
    if last:
        images = images.to(memory_format=torch.channels_last)
    assert torch.equal(pooled(images, height, width), F.max_pool2d(images, (height, width)))


CASES = {
    "2": (nn.MaxPool2d(2), True),
    "2 by 3": (nn.MaxPool2d((2, 3)), True),
    "stride as large": (nn.MaxPool2d(3, stride=3), True),
    "overlap": (nn.MaxPool2d(3, stride=2), False),
    "gaps": (nn.MaxPool2d(2, stride=3), False),
    "over the edge": (nn.MaxPool2d(2, padding=1), False),
    "dilated": (nn.MaxPool2d(2, dilation=2), False),
    "rounded up": (nn.MaxPool2d(2, ceil_mode=True), False),
    "wide": (nn.MaxPool2d(5), False),
}


@pytest.mark.parametrize("name", CASES)
def test_only_plain_windows_are_taken_over(name):
    module, taken = CASES[name]
    images = torch.randn(2, 3, 11, 11, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(module, (images,)).module(check_guards=False)
    assert isinstance(program, fx.GraphModule)
    pool_quickly_(program.graph)
    program.recompile()
    assert torch.equal(program(images), module(images))
    assert (pooled in {node.target for node in program.graph.nodes}) is taken


def test_a_relu_comes_after_its_pool():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2))
    images = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    images[0, 0, 0, 0] = float("nan")
    program = torch.export.export(module, (images,)).module(check_guards=False)
    assert isinstance(program, fx.GraphModule)
    pool_quickly_(program.graph)
    program.recompile()
    names = [operation(node) for node in program.graph.nodes if node.op == "call_function"]
    assert names == ["conv2d", "pooled", "relu"]
    assert torch.equal(program(images).nan_to_num(-1), module(images).nan_to_num(-1))
