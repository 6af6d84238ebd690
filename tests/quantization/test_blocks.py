import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kezuri.core.errors import DataError, ShapeError, UsageError
from kezuri.quantization.blocks import Blocks, already_rounded, fit_blocks, round_to_blocks

sizes = st.integers(1, 70)
seeds = st.integers(0, 2**31)
blocks = st.sampled_from([16, 32, 64])


def rounded(weight: torch.Tensor, block: int, symmetric: bool) -> Blocks:
    scale, zero_point = fit_blocks(weight, block=block, symmetric=symmetric)
    return round_to_blocks(weight, scale, zero_point, block=block)


def unpack(packed: np.ndarray) -> np.ndarray:
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)


@given(sizes, sizes, blocks, seeds, st.booleans())
@settings(max_examples=60, deadline=None)
def test_off_by_half_a_step_at_most_and_packing_loses_nothing(outputs, inputs, block, seed, symmetric):
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))
    found = rounded(weight, block, symmetric)
    values = found.values()
    assert values.shape == weight.shape
    step = found.scale.abs().repeat_interleave(block, 1)[:, :inputs]
    # the one side that a symmetric block has no sixteenth value for may be a whole step off, an end of the
    # range as much as its zero point was rounded by
    assert bool(((weight - values).abs() <= step * (1.0 + 1e-5)).all())
    inner = (values != values.amax(1, keepdim=True)) & (values != values.amin(1, keepdim=True))
    if not symmetric and inputs <= block:
        assert bool(((weight - values).abs() <= step * (0.5 + 1e-5))[inner].all())
    packed = found.packed()
    assert packed.shape == (outputs, -(-inputs // block), block // 2)
    assert np.array_equal(unpack(packed), found.codes.numpy())
    zero_points = unpack(found.packed_zero_points())[:, : found.zero_point.shape[1]]
    assert np.array_equal(zero_points, found.zero_point.numpy())
    assert found.symmetric or not symmetric


@given(sizes, sizes, blocks, seeds, st.booleans())
@settings(max_examples=30, deadline=None)
def test_what_is_on_the_grid_stays(outputs, inputs, block, seed, symmetric):
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))
    once = rounded(weight, block, symmetric)
    again = already_rounded(once.values(), once.scale, once.zero_point, block=block)
    assert torch.equal(again.values(), once.values())


def test_the_first_code_is_the_low_half_of_a_byte():
    codes = torch.zeros(1, 1, 16, dtype=torch.uint8)
    codes[0, 0, :4] = torch.tensor([1, 2, 3, 15])
    found = Blocks(codes, torch.ones(1, 1), torch.full((1, 1), 8, dtype=torch.uint8), 16)
    assert found.packed()[0, 0, :2].tolist() == [0x21, 0xF3]
    assert found.packed_zero_points().tolist() == [[0x08]]
    assert found.values()[0, :4].tolist() == [-7, -6, -5, 7]


def test_zero_stays_zero_and_a_symmetric_extreme_is_met():
    weight = torch.tensor([[0.0, 0.3, -1.7, 0.9] * 4, [0.0] * 16])
    for symmetric in (False, True):
        values = rounded(weight, 16, symmetric).values()
        assert bool((values[weight == 0] == 0).all())
    assert float(rounded(weight, 16, True).values().min()) == pytest.approx(-1.7, rel=1e-6)


def test_sixteen_values_are_met_exactly():
    weight = (torch.arange(32) % 16 - 3.0)[None] * 0.25
    assert torch.equal(rounded(weight, 32, False).values(), weight)


def test_what_does_not_fit_is_refused():
    weight = torch.randn(4, 40)
    with pytest.raises(UsageError, match="block is one of 16, 32, 64, 128, 256; got 24"):
        fit_blocks(weight, block=24)
    with pytest.raises(UsageError, match=r"\(outputs, inputs\) is needed, got \(4, 40, 1\)"):
        fit_blocks(weight[..., None])
    with pytest.raises(DataError, match="not finite"):
        fit_blocks(torch.full((2, 16), torch.nan))
    scale, zero_point = fit_blocks(weight)
    with pytest.raises(UsageError, match="not on its blocks' grid"):
        already_rounded(weight, scale, zero_point)
    codes = torch.zeros(4, 2, 32, dtype=torch.uint8)
    with pytest.raises(ShapeError, match=r"4 outputs of 2 blocks .* got \(4, 1\) and \(4, 2\)"):
        Blocks(codes, scale[:, :1], zero_point, 40)
    with pytest.raises(ShapeError, match="32 inputs do not fill 2 blocks of 32"):
        Blocks(codes, scale, zero_point, 32)
