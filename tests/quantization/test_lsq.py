from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kezuri.quantization.affine import TINY, Grid, fake_quant
from kezuri.quantization.lsq import lsq, positive

ZERO = torch.tensor(0, dtype=torch.int32)
GRIDS = {"weights": Grid(3, symmetric=True), "activations": Grid(4), "two bits": Grid(2, symmetric=True)}


@pytest.fixture(params=GRIDS.values(), ids=GRIDS)
def grid(request):
    return request.param


def gradients(x, scale, grid, *, zero_point=ZERO, axis=None, batched=False, upstream=None):
    """Of Σ upstream · x̂, for x and for the scale."""
    x, scale = x.clone().requires_grad_(), scale.clone().requires_grad_()
    rounded = lsq(x, scale, zero_point, grid, axis, batched=batched)
    upstream = torch.ones_like(x) if upstream is None else upstream
    return torch.autograd.grad((rounded * upstream).sum(), [x, scale])


@settings(max_examples=100, deadline=None)
@given(
    st.floats(-40, 40).filter(lambda v: abs(2 * v - round(2 * v)) > 1e-3),
    st.floats(0.01, 3),
    st.sampled_from([*GRIDS.values()]),
    st.integers(0, 15),
)
def test_one_value_has_the_gradient_of_equation_three(v, step, grid, zero):
    """v counts steps; halves, where it jumps, are left out."""
    zero = 0 if grid.symmetric else min(zero, grid.high)
    least, most = grid.low - zero, grid.high - zero
    x, scale = torch.tensor([v * step]), torch.tensor(step)
    to_x, to_scale = gradients(x, scale, grid, zero_point=torch.tensor(zero, dtype=torch.int32))
    inside = least < v < most
    expected = round(v) - v if inside else (least if v <= least else most)
    assert float(to_x) == float(inside)
    assert float(to_scale) == pytest.approx(expected / sqrt(max(most, 1)), abs=1e-4)


def test_it_is_not_torch_s_own():
    """Which takes what is up to half a step outside for inside."""
    x, scale = torch.tensor([3.3]), torch.tensor([1.0])
    theirs = scale.clone().requires_grad_()
    torch._fake_quantize_learnable_per_tensor_affine(x, theirs, torch.zeros(1), -3, 3, 1.0).sum().backward()
    ours = gradients(x, scale, GRIDS["weights"])[1] * sqrt(3)
    assert float(theirs.grad) == pytest.approx(-0.3, abs=1e-5)
    assert float(ours) == pytest.approx(3)


def test_outside_it_is_the_slope_of_the_values_themselves():
    """And inside too, once rounding is held still."""
    grid, step, h = GRIDS["weights"], 0.37, 1e-3
    x = torch.tensor([-2.0, -1.3, 1.2, 5.0])  # −3 steps and below, 3 and above

    def value(step):
        return float(fake_quant(x, torch.tensor(step), ZERO, grid).double().sum())

    slope = (value(step + h) - value(step - h)) / (2 * h)
    ours = gradients(x, torch.tensor(step), grid)[1] * sqrt(grid.high * 4)
    assert float(ours) == pytest.approx(slope, rel=1e-3)


def test_values_are_those_of_fake_quant(grid):
    x = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))
    scale, zero_point = torch.tensor(0.31), ZERO if grid.symmetric else ZERO + 2
    expected = fake_quant(x, scale, zero_point, grid)
    assert torch.equal(lsq(x, scale.requires_grad_(), zero_point, grid), expected)
    channels = torch.linspace(0.1, 1, 6).requires_grad_()
    zeros = torch.zeros(6, dtype=torch.int32)
    expected = fake_quant(x, channels.detach(), zeros, grid, 1)
    assert torch.equal(lsq(x, channels, zeros, grid, 1), expected)


def test_channels_are_as_if_each_were_alone(grid):
    generator = torch.Generator().manual_seed(0)
    x, upstream = torch.randn(2, 3, 4, 5, generator=generator), torch.randn(3, 4, 5, generator=generator)
    x = x[0]
    scale, zeros = torch.tensor([0.05, 0.3, 0.9, 2.0]), torch.zeros(4, dtype=torch.int32)
    to_x, to_scale = gradients(x, scale, grid, zero_point=zeros, axis=1, upstream=upstream)
    for channel in range(4):
        one = gradients(x[:, channel], scale[channel], grid, upstream=upstream[:, channel])
        torch.testing.assert_close(to_x[:, channel], one[0])
        torch.testing.assert_close(to_scale[channel], one[1])


def test_one_channel_is_a_channel_too(grid):
    x, zero = torch.randn(1, 9, generator=torch.Generator().manual_seed(0)), torch.zeros(1, dtype=torch.int32)
    along = gradients(x, torch.tensor([0.4]), grid, zero_point=zero, axis=0)
    alone = gradients(x, torch.tensor(0.4), grid)
    assert along[1].shape == (1,) and alone[1].shape == ()
    torch.testing.assert_close(along[1][0], alone[1])


def test_the_gradient_counts_values_of_one_sample():
    x = torch.randn(1, 8, 3, generator=torch.Generator().manual_seed(0))
    grid, scale = GRIDS["activations"], torch.tensor(0.2)
    one = gradients(x, scale, grid, batched=True)[1]
    many = gradients(x.expand(5, 8, 3), scale, grid, batched=True)[1]
    torch.testing.assert_close(many, 5 * one)
    torch.testing.assert_close(gradients(x, scale, grid)[1], one)
    torch.testing.assert_close(gradients(x.expand(5, 8, 3), scale, grid)[1], sqrt(5) * one)


def test_a_step_that_training_made_negative_still_counts_as_one():
    x, grid = torch.randn(20, generator=torch.Generator().manual_seed(0)), GRIDS["weights"]
    up, down = (gradients(x, torch.tensor(sign * 0.3), grid) for sign in (1, -1))
    assert torch.equal(up[0], down[0])
    assert up[1] == -down[1]
    assert torch.equal(positive(torch.tensor([-0.3, 0.0, 0.3])), torch.tensor([0.3, TINY, 0.3]))
    assert gradients(x, torch.tensor(0.0), grid)[1].isfinite()


def test_only_what_is_trained_gets_a_gradient():
    x, grid = torch.randn(3, 4), GRIDS["weights"]
    scale = torch.tensor(0.3, requires_grad=True)
    lsq(x, scale, ZERO, grid).sum().backward()
    assert scale.grad is not None
    x.requires_grad_()
    lsq(x, scale.detach(), ZERO, grid).sum().backward()
    assert x.grad is not None
    assert not lsq(x.detach(), scale.detach(), ZERO, grid).requires_grad


def test_memory_formats_are_all_right():
    grid, scale = GRIDS["activations"], torch.tensor(0.2)
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    upstream = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    plain = gradients(x, scale, grid, upstream=upstream)
    last = gradients(x.to(memory_format=torch.channels_last), scale, grid, upstream=upstream)
    torch.testing.assert_close(plain, last)


@pytest.mark.parametrize("bits", [2, 4])
def test_training_finds_a_step_that_loses_less(bits):
    """The gradient leads somewhere: near the least squared error, from a bad start."""
    grid, x = Grid(bits, symmetric=True), torch.randn(2000, generator=torch.Generator().manual_seed(0))

    def loss(scale):
        return float((fake_quant(x, torch.tensor(scale), ZERO, grid) - x).square().mean())

    scale = torch.tensor(float(x.abs().max()) / grid.high, requires_grad=True)
    before = loss(float(scale.detach()))
    optimizer = torch.optim.SGD([scale], lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        (lsq(x, scale, ZERO, grid) - x).square().sum().div(sqrt(2000)).backward()
        optimizer.step()
    best = min(loss(0.02 * i) for i in range(1, 100))
    assert loss(float(scale.detach())) < best * 1.1
    assert best * 1.3 < before
