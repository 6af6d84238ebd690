from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kezuri.core.errors import RecipeError
from kezuri.quantization.affine import Grid, fake_quant
from kezuri.quantization.observers.entropy import Entropy, divergence, least_divergent
from kezuri.quantization.observers.min_max import MinMax
from kezuri.quantization.observers.moving_average import MovingAverage
from kezuri.quantization.observers.mse import Mse
from kezuri.quantization.observers.percentile import Percentile

WEIGHTS, ACTIVATIONS = Grid(8, symmetric=True), Grid(8)


def seen(observer, grid, *batches, axis=None):
    watcher = observer.watch(grid, axis)
    for batch in batches:
        watcher.see(batch)
    return watcher.range()


def heavy_tailed(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, generator=generator) / (torch.rand(count, generator=generator) + 0.02)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([MinMax(), Percentile(99.0), Mse(), Entropy()]), st.booleans())
def test_the_range_does_not_depend_on_how_values_are_split(seed, observer, symmetric):
    grid = Grid(4, symmetric)
    x = heavy_tailed(12_000, seed)
    sizes = torch.randint(1, 4000, (8,), generator=torch.Generator().manual_seed(seed)).tolist()
    split = seen(observer, grid, *x.split([*sizes[:2], 12_000 - sum(sizes[:2])]))
    torch.testing.assert_close(split, seen(observer, grid, x), rtol=1e-6, atol=0)


def test_min_max():
    low, high = seen(MinMax(), WEIGHTS, torch.tensor([[1.0, -3.0], [4.0, 0.5]]), torch.zeros(2, 1), axis=0)
    assert (low.tolist(), high.tolist()) == ([-3, 0], [1, 4])


def test_moving_average():
    batches = [torch.tensor([-1.0, 2.0]), torch.tensor([-3.0, 10.0]), torch.tensor([0.0, 1.0])]
    low, high = seen(MovingAverage(0.75), ACTIVATIONS, *batches)
    assert float(low) == pytest.approx((-1 * 0.75 - 3 * 0.25) * 0.75)
    assert float(high) == pytest.approx((2 * 0.75 + 10 * 0.25) * 0.75 + 1 * 0.25)


@pytest.mark.parametrize("count", [100, 5000, 100_000])
@pytest.mark.parametrize("percent", [90.0, 99.0, 99.99, 100.0])
def test_percentile_is_numpy_s(count, percent):
    x = heavy_tailed(count)
    low, high = seen(Percentile(percent), ACTIVATIONS, x)
    width = float(x.max() - x.min()) / 4096  # a bin is no wider
    exact = np.percentile(x.numpy(), percent, method="inverted_cdf")
    assert float(high) == pytest.approx(exact, abs=0 if count <= 8192 else width / 2)
    exact = -np.percentile(-x.numpy(), percent, method="inverted_cdf")
    assert float(low) == pytest.approx(exact, abs=0 if count <= 8192 else width / 2)


def test_percentile_leaves_single_outliers_out():
    x = torch.cat([torch.linspace(0, 1, 99_999), torch.tensor([500.0])])
    assert float(seen(Percentile(99.99), ACTIVATIONS, x)[1]) == pytest.approx(1, abs=0.1)
    assert float(seen(Percentile(100), ACTIVATIONS, x)[1]) == 500


@pytest.mark.parametrize("grid", [Grid(4, symmetric=True), Grid(3), WEIGHTS], ids=str)
@pytest.mark.parametrize("p", [2.0, 2.4])
def test_mse_is_the_best_of_eighty(grid, p):
    x = heavy_tailed(6 * 900).view(6, 900)
    low, high = seen(Mse(p=p), grid, x, axis=0)
    for row, one_low, one_high in zip(x, low, high, strict=True):
        tried = [1 - 0.01 * i for i in range(80)]
        errors = [
            float((fake_quant(row, *grid.fit(row.min() * s, row.max() * s), grid) - row).abs().pow(p).sum())
            for s in tried
        ]
        best = tried[int(np.argmin(errors))]
        assert float(one_low) == pytest.approx(float(row.min()) * best, rel=1e-5)
        assert float(one_high) == pytest.approx(float(row.max()) * best, rel=1e-5)


def test_mse_on_a_histogram_is_nearly_as_good_as_on_the_values():
    x, grid = heavy_tailed(200_000), Grid(4)

    def loss(low, high):
        return float((fake_quant(x, *grid.fit(low, high), grid) - x).square().mean())

    ranges = [(x.min() * (1 - 0.01 * i), x.max() * (1 - 0.01 * i)) for i in range(80)]
    best = min(loss(*each) for each in ranges)
    assert loss(*seen(Mse(p=2.0), grid, *x.split(30_000))) <= best * 1.01
    assert best < loss(x.min(), x.max()) * 0.5


def naive_divergence(counts, start, end, levels):
    """The recipe of the slides, step by step, for one window."""
    clipped = counts[start:end].astype(float)
    clipped[0] += counts[:start].sum()
    clipped[-1] += counts[end:].sum()
    merged = np.zeros(end - start)
    edges = [start + level * (end - start) // levels for level in range(levels + 1)]
    for a, b in pairwise(edges):
        met = clipped[a - start : b - start] > 0
        merged[a - start : b - start][met] = counts[a:b].sum() / max(met.sum(), 1)
    p, q = clipped / clipped.sum(), merged / merged.sum()
    met = p > 0
    return float((p[met] * np.log(p[met] / np.maximum(q[met], 1e-300))).sum())


@pytest.mark.parametrize(("zero", "levels"), [(0, 8), (40, 8), (90, 16)])
def test_the_divergence_is_that_of_the_slides(zero, levels):
    counts = np.random.default_rng(0).poisson(40 * np.exp(-(((np.arange(100) - zero) / 25) ** 2)) + 3)
    reach = np.arange(levels, 100)
    start, end = np.maximum(zero - reach, 0), np.minimum(zero + reach, 100)
    ours = divergence(torch.tensor(counts).double(), torch.tensor(start), torch.tensor(end), levels)
    theirs = [naive_divergence(counts, a, b, levels) for a, b in zip(start, end, strict=True)]
    assert ours.tolist() == pytest.approx(theirs, abs=1e-9)


def test_entropy_keeps_even_values_whole_and_clips_a_far_tail():
    even = torch.linspace(0, 1, 200_000)
    assert float(seen(Entropy(), ACTIVATIONS, even)[1]) == pytest.approx(1, abs=0.01)
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    x[0] = 60.0
    low, high = seen(Entropy(), WEIGHTS, x)
    assert low == -high
    assert 2.5 < float(high) < 12
    low, high = seen(Entropy(), ACTIVATIONS, x.relu())
    assert low == 0
    assert 2.5 < float(high) < 20


def test_zeros_do_not_draw_the_range_in():
    """A ReLU makes many, and zero is met exactly whatever the range."""
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0)).abs()
    with_zeros = torch.cat([x, torch.zeros(900_000)])
    assert seen(Entropy(), ACTIVATIONS, with_zeros)[1] == seen(Entropy(), ACTIVATIONS, x)[1]


def test_few_bins_in_use_are_all_kept():
    assert least_divergent(torch.tensor([5, 0, 2, 1]), zero=1, levels=128) == (0, 4)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MovingAverage(1.0), "1.0"),
        (lambda: Percentile(50), "50"),
        (lambda: Percentile(101), "101"),
        (lambda: Percentile(bins=8), "8"),
        (lambda: Mse(p=0), "0"),
        (lambda: Mse(bins=10**6), "1000000"),
        (lambda: Entropy(bins=256), "256"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, said):
    with pytest.raises(RecipeError, match=said):
        make()
