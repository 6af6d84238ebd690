import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kezuri.core.errors import UsageError
from kezuri.quantization.affine import Grid, dequantize, fake_quant, quantize

from .nets import noise

grids = st.builds(Grid, st.integers(2, 8), st.booleans())
ends = st.floats(-1e3, 1e3, width=32)


def test_the_integers_of_a_grid():
    assert (Grid(8, symmetric=True).low, Grid(8, symmetric=True).high) == (-127, 127)
    assert (Grid(8).low, Grid(8).high) == (0, 255)
    assert (Grid(2, symmetric=True).low, Grid(2, symmetric=True).high) == (-1, 1)


@pytest.mark.parametrize("bits", [1, 9, 0, -8, 32])
def test_other_bits_are_refused(bits):
    with pytest.raises(UsageError, match=f"bits are from 2 to 8, got {bits}"):
        Grid(bits)


@given(grids, ends, ends)
def test_zero_is_met_exactly_and_the_scale_is_positive(grid, one, other):
    scale, zero_point = grid.fit(torch.tensor(min(one, other)), torch.tensor(max(one, other)))
    assert scale > 0 and grid.low <= zero_point <= grid.high
    q = quantize(torch.zeros(1), scale, zero_point, grid)
    assert dequantize(q, scale, zero_point).item() == 0


@settings(deadline=None)
@given(grids, st.lists(ends, min_size=1, max_size=20))
def test_inside_the_range_the_error_is_half_a_step(grid, values):
    x = torch.tensor(values)
    scale, zero_point = grid.fit(x.min(), x.max())
    q = quantize(x, scale, zero_point, grid)
    assert q.dtype == torch.int32 and q.min() >= grid.low and q.max() <= grid.high
    apart = (dequantize(q, scale, zero_point) - x).abs().max()
    # where zero is no whole step from the end, the zero point is rounded and the end may be clipped
    assert apart <= scale * (1 + 1e-4)
    inside = (x / scale).round() + zero_point == q
    assert ((dequantize(q, scale, zero_point) - x).abs()[inside] <= scale * 0.5001).all()


@settings(deadline=None)
@given(grids, st.lists(ends, min_size=1, max_size=20))
def test_rounding_twice_changes_nothing(grid, values):
    x = torch.tensor(values)
    scale, zero_point = grid.fit(x.min(), x.max())
    once = fake_quant(x, scale, zero_point, grid)
    assert torch.equal(fake_quant(once, scale, zero_point, grid), once)
    assert torch.allclose(
        once, dequantize(quantize(x, scale, zero_point, grid), scale, zero_point), atol=float(scale)
    )


def test_it_is_what_torch_computes():
    x = noise(1000)
    grid = Grid(8)
    scale, zero_point = grid.fit(x.min(), x.max())
    expected = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, 255)
    assert torch.allclose(fake_quant(x, scale, zero_point, grid), expected, atol=1e-6)


def test_a_scale_for_each_channel():
    x = noise(4, 3, 2) * torch.tensor([1.0, 10.0, 100.0]).view(1, 3, 1)
    grid = Grid(4, symmetric=True)
    size = x.abs().amax((0, 2))
    scale, zero_point = grid.fit(-size, size)
    assert scale.shape == (3,) and torch.allclose(scale, size / 7)
    whole = fake_quant(x, scale, zero_point, grid, axis=1)
    for channel in range(3):
        alone = fake_quant(x[:, channel], scale[channel], zero_point[channel], grid)
        assert torch.equal(whole[:, channel], alone)


def test_gradients_pass_inside_and_stop_outside():
    x = torch.tensor([-9.0, -0.4, 0.2, 0.9, 9.0], requires_grad=True)
    grid = Grid(8)
    scale, zero_point = grid.fit(torch.tensor(-1.0), torch.tensor(1.0))
    fake_quant(x, scale, zero_point, grid).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 1, 1, 1, 0]


def test_numbers_keep_their_format():
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        x = noise(10).to(dtype)
        assert fake_quant(x, torch.tensor(0.1), torch.tensor(128), Grid(8)).dtype == dtype
