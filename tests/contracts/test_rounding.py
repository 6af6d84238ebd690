"""What every rounding must do. A new one is covered by being registered."""

import pytest
import torch
from torch.nn import functional as F

import kezuri.quantization.roundings
from kezuri.core.errors import DataError, MissingEvidence, ShapeError
from kezuri.quantization.affine import Grid
from kezuri.quantization.rounding import LayerMap, roundings
from kezuri.quantization.roundings.adaround import AdaRound

ROUNDINGS = {name: roundings[name]() for name in sorted(roundings)} | {"adaround": AdaRound(iterations=100)}
LAYERS = {
    "linear": ((6, 5), (40, 5), None),
    "linear on tokens": ((6, 5), (8, 7, 5), None),
    "sequence": ((6, 4, 3), (9, 4, 12), LayerMap(padding=(1,))),
    "convolution": ((6, 3, 3, 3), (9, 3, 7, 7), None),
    "strided": ((6, 3, 3, 2), (9, 3, 8, 9), LayerMap((2, 1), (1, 0), (1, 2))),
    "grouped": ((6, 2, 3, 3), (9, 4, 6, 6), LayerMap(padding=(1,), groups=2)),
    "depthwise": ((6, 1, 3, 3), (20, 6, 6, 6), LayerMap(groups=6)),
    "volume": ((6, 2, 2, 2, 2), (9, 2, 4, 4, 4), LayerMap(stride=(2,))),
}
GRIDS = {"four bits": Grid(4, symmetric=True), "affine": Grid(3)}


@pytest.fixture(params=ROUNDINGS.values(), ids=ROUNDINGS)
def rounding(request):
    return request.param


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def layer(request):
    """Weight, correlated inputs, and how they meet."""
    shape, read, how = request.param
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(read, generator=generator).cumsum(-1)
    return torch.randn(shape, generator=generator), inputs, how


def fitted(weight, grid, axis):
    rows = weight.flatten(1) if axis == 0 else weight.reshape(1, -1)
    scale, zero_point = grid.fit(rows.amin(1), rows.amax(1))
    return (scale, zero_point) if axis == 0 else (scale.reshape(()), zero_point.reshape(()))


def answer(weight, inputs, layer):
    if weight.dim() == 2:
        return F.linear(inputs, weight)
    layer = layer or LayerMap()
    run = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[weight.dim()]
    return run(inputs, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)


def test_there_are_roundings_to_test():
    assert len(roundings) >= 4
    assert kezuri.quantization.roundings is not None


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("axis", [None, 0])
def test_every_weight_ends_on_the_grid(rounding, layer, grid, axis):
    weight, inputs, how = layer
    scale, zero_point = fitted(weight, grid, axis)
    before = weight.clone(), inputs.clone()
    rounded = rounding(weight, scale, zero_point, grid, axis, inputs, how)
    assert rounded.shape == weight.shape and rounded.dtype == torch.float32
    step, zero = (each.view(-1, *[1] * (weight.dim() - 1)) for each in (scale, zero_point))
    integers = rounded / step + zero
    torch.testing.assert_close(integers, integers.round(), rtol=0, atol=1e-3)
    assert integers.round().min() >= grid.low and integers.round().max() <= grid.high
    assert torch.equal(weight, before[0]) and torch.equal(inputs, before[1])


def test_the_output_is_no_worse_than_with_the_nearest(rounding, layer):
    weight, inputs, how = layer
    grid = GRIDS["four bits"]
    scale, zero_point = fitted(weight, grid, 0)

    def error(rounding):
        rounded = rounding(weight, scale, zero_point, grid, 0, inputs, how)
        return float((answer(rounded, inputs, how) - answer(weight, inputs, how)).square().mean())

    assert error(rounding) <= error(ROUNDINGS["nearest"]) * (1 + 1e-4)


def test_the_same_again_is_the_same(rounding, layer):
    weight, inputs, how = layer
    grid = GRIDS["affine"]
    first, second = (rounding(weight, *fitted(weight, grid, 0), grid, 0, inputs, how) for _ in range(2))
    assert torch.equal(first, second)


def test_a_weight_on_the_grid_stays(rounding):
    grid = GRIDS["four bits"]
    integers = torch.randint(-7, 8, (5, 12), generator=torch.Generator().manual_seed(0))
    inputs = torch.randn(64, 12, generator=torch.Generator().manual_seed(1))
    scale, zero_point = torch.tensor(0.25), torch.tensor(0, dtype=torch.int32)
    weight = integers * scale
    assert torch.equal(rounding(weight, scale, zero_point, grid, None, inputs), weight)


def test_inputs_that_are_all_zero_are_no_trouble(rounding):
    grid = GRIDS["four bits"]
    weight = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    scale, zero_point = fitted(weight, grid, 0)
    nearest = ROUNDINGS["nearest"](weight, scale, zero_point, grid, 0)
    torch.testing.assert_close(rounding(weight, scale, zero_point, grid, 0, torch.zeros(4, 12)), nearest)


def test_a_trained_parameter_can_be_given(rounding):
    grid = GRIDS["four bits"]
    weight = torch.nn.Parameter(torch.randn(5, 12, generator=torch.Generator().manual_seed(0)))
    inputs = torch.randn(64, 12, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert not rounding(weight, *fitted(weight.detach(), grid, 0), grid, 0, inputs).requires_grad


def test_says_what_it_is_not_given():
    needing = {name for name, rounding in ROUNDINGS.items() if rounding.needs}
    assert needing >= {"adaround", "gptq", "greedy"}
    weight, grid = torch.randn(4, 3), GRIDS["four bits"]
    scale, zero_point = fitted(weight, grid, 0)
    for name, rounding in ROUNDINGS.items():
        assert rounding.needs <= {"inputs"}
        if name not in needing:
            rounding(weight, scale, zero_point, grid, 0)
            continue
        with pytest.raises(MissingEvidence, match="inputs"):
            rounding(weight, scale, zero_point, grid, 0)
        with pytest.raises(ShapeError, match="axis 1"):
            rounding(weight, scale, zero_point, grid, 1, torch.randn(5, 3))
        with pytest.raises(ShapeError, match=r"reads 3 channels, got inputs \(5, 4\)"):
            rounding(weight, scale, zero_point, grid, 0, torch.randn(5, 4))
        with pytest.raises(DataError, match="not finite"):
            rounding(weight, scale, zero_point, grid, 0, torch.full((5, 3), torch.nan))
