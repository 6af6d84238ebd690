from itertools import product

import pytest
import torch
from torch.nn import functional as F

from kezuri.core.errors import RecipeError, ShapeError
from kezuri.quantization.affine import Grid
from kezuri.quantization.rounding import LayerMap, Rows, second_moments
from kezuri.quantization.roundings.adaround import AdaRound
from kezuri.quantization.roundings.gptq import Gptq, factor
from kezuri.quantization.roundings.greedy import Greedy
from kezuri.quantization.roundings.nearest import Nearest

FOUR = Grid(4, symmetric=True)


def correlated(seed, *, outputs=32, inputs=48, samples=1500):
    """A linear layer and what it reads: sums of a few causes, after a ReLU, as in a network."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inputs, inputs, generator=generator) * torch.arange(1, inputs + 1) ** -0.7
    x = (torch.randn(samples, inputs, generator=generator) @ mixing.T).relu()
    return torch.randn(outputs, inputs, generator=generator) * 0.1, x


def steps(weight, grid=FOUR):
    rows = weight.flatten(1)
    return grid.fit(rows.amin(1), rows.amax(1))


def lost(rounding, weight, x, grid=FOUR, on=None):
    """Mean squared error of a linear layer's output."""
    rounded = rounding(weight, *steps(weight, grid), grid, 0, x)
    return float(F.linear(x if on is None else on, rounded - weight).square().mean())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rounding", [AdaRound(), Gptq(), Gptq(order=False), Greedy()], ids=str)
def test_a_layer_loses_far_less_than_with_the_nearest(rounding, seed):
    weight, x = correlated(seed)
    learnt, fresh = x[:1000], x[1000:]
    assert lost(rounding, weight, learnt) < 0.4 * lost(Nearest(), weight, learnt)
    assert lost(rounding, weight, learnt, on=fresh) < 0.45 * lost(Nearest(), weight, learnt, on=fresh)


@pytest.mark.parametrize("rounding", [AdaRound(), Gptq(), Greedy()], ids=str)
@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((16, 6, 3, 3), LayerMap(padding=(1,))),
        ((16, 4, 3, 3), LayerMap(stride=(2,), groups=2)),
        ((12, 1, 5, 5), LayerMap(groups=12)),
    ],
    ids=["plain", "grouped", "depthwise"],
)
def test_a_convolution_too(rounding, shape, layer):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(shape, generator=generator)
    noise = torch.randn(16, shape[1] * layer.groups, 16, 16, generator=generator)
    x = F.avg_pool2d(noise, 5, 1).relu()  # neighbours alike

    def loss(rounding):
        off = rounding(weight, *steps(weight), FOUR, 0, x, layer) - weight
        return float(F.conv2d(x, off, None, layer.stride, layer.padding, 1, layer.groups).square().mean())

    assert loss(rounding) < 0.5 * loss(Nearest())


@pytest.mark.parametrize("factor", [1e-4, 1e4])
@pytest.mark.parametrize("rounding", [AdaRound(), Gptq(), Greedy()], ids=str)
def test_units_do_not_matter(rounding, factor):
    weight, x = correlated(0)
    assert lost(rounding, weight, x * factor) < 0.4 * lost(Nearest(), weight, x * factor)


@pytest.mark.parametrize("seed", range(3))
def test_adaround_is_near_the_best_of_all_choices(seed):
    weight, x = correlated(seed, outputs=4, inputs=9, samples=400)
    scale, zero_point = steps(weight)
    rows = Rows.of(weight, scale, zero_point, FOUR, 0, x, None)
    below = (rows.weight / rows.scale).floor()
    choices = torch.tensor(list(product([0.0, 1.0], repeat=9)))
    best = torch.stack([rows.error(rows.onto_grid(below + choice)) for choice in choices]).amin(0)
    ours = rows.error(AdaRound()(weight, scale, zero_point, FOUR, 0, x).unsqueeze(0))
    assert float(ours.sum()) < 1.15 * float(best.sum())
    assert float(best.sum()) < 0.8 * float(rows.error(rows.nearest()).sum())


def test_adaround_only_goes_to_a_neighbour():
    weight, x = correlated(0)
    scale, zero_point = steps(weight)
    rounded = AdaRound()(weight, scale, zero_point, FOUR, 0, x)
    assert ((rounded - weight).abs() < scale.view(-1, 1)).all()


def one_flip_after_the_other(row, x, scale, grid):
    """The best flip of a weight to the other side of its value, tried one by one on the outputs."""
    below = (row / scale).floor()
    up = (row / scale - below > 0.5).double()

    def error(up):
        return float((x @ ((below + up).clamp(grid.low, grid.high) * scale - row)).square().mean())

    free = [k for k in range(len(row)) if grid.low <= below[k] and below[k] + 1 <= grid.high]
    while True:
        tried = {k: error(torch.where(torch.arange(len(row)) == k, 1 - up, up)) for k in free}
        best = min(tried, key=tried.get, default=None)
        if best is None or tried[best] > error(up) * (1 - 1e-4):
            return (below + up).clamp(grid.low, grid.high) * scale
        up[best] = 1 - up[best]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("range_", [1.0, 0.5], ids=["whole", "clipped"])
def test_greedy_flips_what_helps_most_until_nothing_does(seed, range_):
    grid = Grid(2 + seed % 2, symmetric=True)
    weight, x = correlated(seed, outputs=6, inputs=24, samples=100)
    scale, zero_point = grid.fit(weight.amin(1) * range_, weight.amax(1) * range_)
    ours = Greedy()(weight, scale, zero_point, grid, 0, x)
    for row, step, found in zip(weight.double(), scale.double(), ours, strict=True):
        expected = one_flip_after_the_other(row, x.double(), step, grid)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(2))
def test_learning_and_making_up_for_errors_do_more_than_flips(seed):
    weight, x = correlated(seed)
    greedy = lost(Greedy(), weight, x)
    assert lost(Gptq(), weight, x) < 0.95 * greedy
    assert lost(AdaRound(), weight, x) < 0.95 * greedy


def test_gptq_without_correlation_is_rounding_to_nearest():
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    x = torch.eye(8) * torch.arange(1, 9)
    arguments = (*steps(weight), FOUR, 0)
    torch.testing.assert_close(Gptq()(weight, *arguments, x), Nearest()(weight, *arguments))


def test_gptq_in_blocks_is_gptq():
    weight, x = correlated(2)
    blocks = [Gptq(block=size)(weight, *steps(weight), FOUR, 0, x) for size in (1, 7, 128)]
    torch.testing.assert_close(blocks[0], blocks[2])
    torch.testing.assert_close(blocks[1], blocks[2])


def test_the_factor_is_of_the_inverse_and_takes_what_cannot_be_inverted():
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    moments = (x.T @ x / 50).unsqueeze(0)
    upper = factor(moments, damp=0.01)
    damped = moments[0] + 0.01 * moments[0].diagonal().mean() * torch.eye(6)
    torch.testing.assert_close(upper[0].T @ upper[0], damped.inverse())
    assert torch.equal(upper[0], upper[0].triu())
    twins = torch.ones(1, 3, 3) * 1e6
    twins[:, 2] = twins[:, :, 2] = 0.0
    assert factor(twins, damp=1e-12).isfinite().all()


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((6, 3, 3, 2), LayerMap((2, 1), (1, 0), (1, 2))),
        ((6, 2, 3, 3), LayerMap(padding=(2,), groups=2)),
        ((4, 1, 3, 3), LayerMap(groups=4)),
    ],
    ids=["strided", "grouped", "depthwise"],
)
def test_moments_give_the_error_of_the_output(shape, layer):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    x = torch.randn(5, shape[1] * layer.groups, 9, 8, generator=generator)
    scale, zero_point = steps(weight)
    rows = Rows.of(weight, scale, zero_point, FOUR, 0, x, layer)
    off = (rows.nearest() - rows.weight).reshape(shape)
    out = F.conv2d(x, off, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    torch.testing.assert_close(rows.error(rows.nearest()).flatten(), out.square().mean((0, 2, 3)))


def test_moments_are_those_of_the_unfolded_inputs():
    x = torch.randn(3, 2, 6, 7, generator=torch.Generator().manual_seed(0))
    columns = F.unfold(x, 3, dilation=(2, 1), padding=(1, 0), stride=(1, 2)).transpose(0, 1).flatten(1)
    layer = LayerMap((1, 2), (1, 0), (2, 1))
    ours = second_moments(x, torch.empty(5, 2, 3, 3), layer)
    torch.testing.assert_close(ours[0], columns @ columns.T / columns.shape[1])


@pytest.mark.parametrize(
    ("weight", "inputs", "layer", "said"),
    [
        ((4, 3, 3, 3), (2, 3, 2, 8), LayerMap(), "smaller than the kernel"),
        ((4, 3, 3, 3), (2, 6, 8, 8), LayerMap(), "reads 3 channels"),
        ((4, 3, 3, 3), (2, 3, 8), LayerMap(), r"\(2, 3, 8\)"),
        ((4, 3, 3, 3), (0, 3, 8, 8), LayerMap(), r"\(0, 3, 8, 8\)"),
        ((4, 3, 3, 3), (2, 3, 8, 8), LayerMap(stride=(1, 1, 1)), "2 dimension"),
        ((4, 3, 3, 3), (2, 9, 8, 8), LayerMap(groups=3), "3 group"),
        ((4,), (2, 4), None, r"\(4,\)"),
    ],
)
def test_what_does_not_fit_is_refused(weight, inputs, layer, said):
    with pytest.raises(ShapeError, match=said):
        Gptq()(torch.ones(weight), *(torch.ones(4),) * 2, FOUR, 0, torch.ones(inputs), layer)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: AdaRound(iterations=0), "iterations=0"),
        (lambda: AdaRound(lr=-1.0), "lr=-1.0"),
        (lambda: AdaRound(pull=0), "pull=0"),
        (lambda: AdaRound(beta=(20, 1)), r"\(20, 1\)"),
        (lambda: AdaRound(warmup=1), "1"),
        (lambda: Gptq(damp=0), "damp=0"),
        (lambda: Gptq(block=0), "block=0"),
        (lambda: LayerMap(stride=(0,)), "stride"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, said):
    with pytest.raises(RecipeError, match=said):
        make()
