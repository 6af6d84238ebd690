"""What every observer must do. A new one is covered by being registered."""

import pytest
import torch

import kezuri.quantization.observers
from kezuri.core.errors import DataError, MissingEvidence, ShapeError, UsageError
from kezuri.quantization.affine import Grid
from kezuri.quantization.observer import observers

OBSERVERS = {name: observers[name]() for name in sorted(observers)}
PER_CHANNEL = {name: observer for name, observer in OBSERVERS.items() if observer.per_channel}
GRIDS = {"weights": Grid(8, symmetric=True), "activations": Grid(8), "two bits": Grid(2)}


@pytest.fixture(params=OBSERVERS.values(), ids=OBSERVERS)
def observer(request):
    return request.param


@pytest.fixture(params=PER_CHANNEL.values(), ids=PER_CHANNEL)
def per_channel(request):
    return request.param


@pytest.fixture(params=GRIDS.values(), ids=GRIDS)
def grid(request):
    return request.param


def values(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seen(observer, grid, *batches, axis=None):
    watcher = observer.watch(grid, axis)
    for batch in batches:
        watcher.see(batch)
    return watcher.range()


def test_there_are_observers_to_test():
    assert len(observers) >= 5
    assert len(PER_CHANNEL) >= 4
    assert kezuri.quantization.observers is not None


@pytest.mark.parametrize("shape", [(), (7,), (64, 3), (4, 3, 5, 5), (2, 3, 4, 4, 4)], ids=str)
def test_one_range_for_all_is_two_numbers(observer, grid, shape):
    low, high = seen(observer, grid, values(*shape))
    assert low.shape == high.shape == ()
    assert low.dtype == high.dtype == torch.float32
    assert low <= high


@pytest.mark.parametrize("axis", [0, 1, 3])
def test_a_range_for_each_channel_is_that_of_the_channel_alone(per_channel, grid, axis):
    x = values(5, 4, 3, 6) * torch.tensor([0.1, 1.0, 7.0, 50.0]).view(1, -1, 1, 1)
    low, high = seen(per_channel, grid, x, axis=axis)
    assert low.shape == high.shape == (x.shape[axis],)
    for channel in range(x.shape[axis]):
        alone = seen(per_channel, grid, x.select(axis, channel))
        torch.testing.assert_close((low[channel], high[channel]), alone)


def test_nothing_outside_what_was_seen_is_in_the_range(observer):
    batches = [values(1000, seed=seed) for seed in range(5)]
    low, high = seen(observer, GRIDS["activations"], *batches)
    assert torch.cat(batches).min() <= low < high <= torch.cat(batches).max()


def test_a_grid_fits_the_range(observer, grid):
    for x in (values(300), values(300).relu(), -values(300).relu(), torch.zeros(4), torch.full((9,), 2.5)):
        scale, zero_point = grid.fit(*seen(observer, grid, x))
        assert scale.isfinite() and scale > 0
        assert grid.low <= zero_point <= grid.high


def test_tiny_and_huge_values_are_told_apart(observer, grid):
    for factor in (1e-30, 1e30):
        low, high = seen(observer, grid, values(20000) * factor)
        assert factor / 5 < high - low < 20 * factor


def test_keeps_no_batch(observer):
    """Nor a reference to one: what becomes of it later does not matter."""
    watcher, other = (observer.watch(GRIDS["activations"], None) for _ in range(2))
    for seed in range(40):
        x = values(100 if seed < 3 else 10_000, seed=seed)
        other.see(x.clone())
        watcher.see(x)
        x.fill_(1e6)
        assert watcher.range() == other.range()
    assert kept(watcher) < 20_000


def kept(thing):
    """How many numbers an object holds on to."""
    if isinstance(thing, torch.Tensor):
        return thing.numel()
    if isinstance(thing, list | tuple):
        return sum(kept(part) for part in thing)
    return sum(kept(part) for part in vars(thing).values()) if hasattr(thing, "__dict__") else 0


def test_leaves_what_it_sees_as_it_is(observer, grid):
    x = values(30, 4)
    before = x.clone()
    seen(observer, grid, x, x.T)
    assert torch.equal(x, before)


def test_asking_twice_gives_the_same_and_seeing_goes_on(observer, grid):
    watcher = observer.watch(grid, None)
    watcher.see(values(3000))
    assert watcher.range() == watcher.range()
    for _ in range(200):
        watcher.see(100 * values(3000))
    assert watcher.range()[1] > 20


def test_nothing_seen_is_no_range(observer, grid):
    with pytest.raises(MissingEvidence, match="calibration"):
        observer.watch(grid, None).range()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_refused(observer, grid, bad):
    x = values(50)
    x[17] = bad
    with pytest.raises(DataError, match="not finite"):
        observer.watch(grid, None).see(x)


def test_no_values_and_no_such_axis_are_refused(observer, per_channel, grid):
    with pytest.raises(ShapeError, match=r"\(0, 3\)"):
        observer.watch(grid, None).see(torch.empty(0, 3))
    with pytest.raises(ShapeError, match="axis 2"):
        per_channel.watch(grid, 2).see(values(4, 3))


def test_the_number_of_channels_stays(per_channel, grid):
    watcher = per_channel.watch(grid, 1)
    watcher.see(values(8, 3))
    with pytest.raises(ShapeError, match="3 channels"):
        watcher.see(values(8, 4))


def test_an_axis_is_refused_by_those_that_know_one_range_only(grid):
    refusing = [observer for observer in OBSERVERS.values() if not observer.per_channel]
    assert refusing
    for observer in refusing:
        with pytest.raises(UsageError, match="axis 0"):
            observer.watch(grid, 0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_formats_are_taken_as_float32(observer, grid, dtype):
    x = values(500).to(dtype)
    assert seen(observer, grid, x) == seen(observer, grid, x.float())
