import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kezuri.core.errors import RecipeError, ShapeError
from kezuri.quantization.histogram import Histogram, finest

RANGES = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


def of(values, bins=64):
    histogram = Histogram(bins)
    for batch in values:
        histogram.add(batch)
    return histogram


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_counts_do_not_depend_on_how_values_are_split_into_batches(data):
    channels = data.draw(st.integers(1, 3))
    seed, count = data.draw(st.integers(0, 2**31)), data.draw(st.integers(1, 400))
    generator = torch.Generator().manual_seed(seed)
    size = torch.logspace(-3, 3, count)[torch.randperm(count, generator=generator)]
    values = torch.randn(channels, count, generator=generator) * size + data.draw(st.floats(-5, 5))
    cuts = sorted(data.draw(st.sets(st.integers(1, count), max_size=6)) | {count})
    parts = [values[:, a:b] for a, b in zip([0, *cuts], cuts, strict=False) if b > a]
    split, whole = of(parts).points(), of([values]).points()
    assert torch.equal(split[0], whole[0])
    assert torch.equal(split[1], whole[1])


@settings(max_examples=60, deadline=None)
@given(st.lists(RANGES, min_size=65, max_size=300))
def test_every_value_is_counted_where_it_is(numbers):
    values = torch.tensor(numbers).unsqueeze(0)
    counts, zero, width = of([values]).binned()
    edges = (np.arange(len(counts) + 1) - zero) * width
    expected = np.bincount(
        np.floor(values[0].double().numpy() / width).astype(int) + zero, minlength=len(counts)
    )
    assert counts.tolist() == expected.tolist()
    assert edges[0] <= min(0, min(numbers)) and edges[-1] > max(0, max(numbers))


@given(RANGES, RANGES, st.sampled_from([64, 100, 2048]))
def test_bins_reach_over_the_range_and_half_of_them_at_least_are_used(a, b, bins):
    low, high = torch.tensor([min(a, b, 0.0)]), torch.tensor([max(a, b, 0.0)])
    exponent, first = finest(low, high, bins)
    width = 2.0 ** int(exponent)
    used = int(np.floor(float(high) / width)) - int(first) + 1
    assert int(first) * width <= float(low) and used <= bins
    if float(high - low) > 1e-20:
        assert used > bins // 2 - 1


def test_few_values_are_kept_as_they_are():
    values = torch.tensor([[3.0, -1.25, 0.1], [7.0, 7.0, 8.0]])
    points, counts = of([values[:, :1], values[:, 1:]]).points()
    assert torch.equal(points, values.sort(1).values)
    assert torch.equal(counts, torch.ones(2, 3, dtype=torch.int64))


def test_the_middles_of_bins_stand_for_many():
    values = torch.linspace(-2, 6, 10001).unsqueeze(0)
    points, counts = of([values], bins=512).points()
    assert points.shape == (1, 512)
    assert int(counts.sum()) == 10001
    assert float((points * counts).sum() / 10001) == pytest.approx(2, abs=8 / 256)
    assert -2 <= points.min() < -1.9 and points.max() == 6


def test_wrong_sizes_are_refused():
    with pytest.raises(RecipeError, match="63"):
        Histogram(63)
    with pytest.raises(ShapeError, match="2"):
        of([torch.ones(2, 5)]).binned()
