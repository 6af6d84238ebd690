import copy

import pytest
import torch

from kezuri.core.errors import MissingEvidence, UsageError
from kezuri.quantization.affine import Grid
from kezuri.quantization.fake import DROPPED, FakeQuant, WeightQuant
from kezuri.quantization.observers.min_max import MinMax

from .nets import noise


def settled(x, grid=None):
    one = FakeQuant(grid or Grid(8))
    one.watch(MinMax())
    one(x)
    one.settle()
    return one


def test_off_and_watching_it_lets_everything_pass():
    x, one = noise(5, 3), FakeQuant(Grid(8))
    assert one(x) is x
    one.watch(MinMax())
    assert one.watches and one(x) is x
    one.settle()
    assert one.on and not one.watches
    assert 0 < (one(x) - x).abs().max() <= one.scale


def test_nothing_watched_is_an_error():
    one = FakeQuant(Grid(8))
    with pytest.raises(UsageError, match="nothing was watched"):
        one.settle()
    one.watch(MinMax())
    with pytest.raises(MissingEvidence):
        one.settle()


def test_moving_ranges_follow_in_training_only():
    one = settled(noise(100))
    before = float(one.scale)
    one.ranges = "moving"
    one.eval()(100 * noise(100))
    assert float(one.scale) == before
    one.train()
    for _ in range(300):
        one(100 * noise(100))
    assert float(one.scale) == pytest.approx(100 * before, rel=0.1)


def test_learned_ranges_are_parameters_with_a_gradient():
    one = settled(noise(100))
    values, x = one(noise(100)), noise(100).requires_grad_()
    one.learn()
    one.learn()
    assert [name for name, _ in one.named_parameters()] == ["scale"]
    assert torch.equal(one(noise(100)), values)
    one(x).square().sum().backward()
    assert one.scale.grad is not None and one.scale.grad != 0 and x.grad is not None


def test_the_gradient_of_a_range_does_not_grow_with_the_batch():
    grads = []
    for copies in (1, 4):
        one = settled(noise(8, 50))
        one.learn()
        one(noise(8, 50).repeat(copies, 1)).square().mean(1).sum().backward()
        grads.append(float(one.scale.grad))
    assert grads[1] == pytest.approx(4 * grads[0], rel=1e-4)  # as the sum of losses does, and no root of it


def test_weights_follow_themselves_in_training():
    weight = noise(4, 3, 3, 3)
    one = WeightQuant("layer", Grid(8, symmetric=True), 4, 0)
    one.on, one.ranges = True, "moving"
    one.train()(weight * 5)
    assert torch.allclose(one.scale, 5 * weight.abs().amax((1, 2, 3)) / 127)
    one.eval()(weight)
    assert torch.allclose(one.scale, 5 * weight.abs().amax((1, 2, 3)) / 127)


def test_one_scale_counts_on_the_weight_with_its_gain():
    weight, gain = noise(4, 3), torch.tensor([1.0, -2.0, 0.0, 1e-3])
    one = WeightQuant("layer", Grid(8, symmetric=True), None, None)
    one.fit(-(weight * gain[:, None]).abs().max(), (weight * gain[:, None]).abs().max())
    one.on = True
    rounded = one(weight, gain)
    steps = rounded * gain[:, None] / one.scale
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    assert rounded.isfinite().all() and not rounded[2].any()


def test_copies_are_independent():
    one = settled(noise(100))
    twin = copy.deepcopy(one)
    twin.fit(torch.tensor(-9.0), torch.tensor(9.0))
    assert twin.scale != one.scale


def test_half_precision_passes():
    one = settled(noise(100))
    assert one(noise(100).half()).dtype == torch.float16
    weight = WeightQuant("layer", Grid(8, symmetric=True), 4, 0)
    weight.on = True
    assert weight(noise(4, 3).half()).dtype == torch.float16


@pytest.mark.parametrize("bits", [8, 4])
def test_moving_ranges_arrive_at_what_passes(bits):
    """Also where zero is in the middle, whose place is rounded at every step."""
    one = FakeQuant(Grid(bits))
    one.fit(torch.tensor(-1.0), torch.tensor(1.0))
    one.on, one.ranges = True, "moving"
    for _ in range(2000):
        one(torch.linspace(-0.3, 2, 100))
    low = -float(one.scale) * int(one.zero_point)
    assert low == pytest.approx(-0.3, abs=float(one.scale))
    assert low + float(one.scale) * one.grid.high == pytest.approx(2, abs=float(one.scale))


def test_moving_ranges_pass_over_what_is_not_finite():
    one = FakeQuant(Grid(8))
    one.fit(torch.tensor(-1.0), torch.tensor(1.0))
    one.on, one.ranges = True, "moving"
    before = {name: value.clone() for name, value in one.state_dict().items()}
    one(torch.tensor([0.5, float("inf")]))
    one(torch.tensor([0.5, float("nan")]))
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())


def test_what_dropout_scaled_passes_in_training_and_is_rounded_after():
    one = settled(torch.linspace(0, 1, 11))
    x = torch.tensor([0.0, 1.9])
    assert one.train()(x, DROPPED) is x
    assert float(one.eval()(x, DROPPED).max()) == pytest.approx(1)


def test_no_learned_step_reaches_beyond_a_ceiling():
    one = FakeQuant(Grid(8), ceiling=6.0)
    one.fit(torch.tensor(0.0), torch.tensor(7.0))
    assert float(one.scale) * 255 == pytest.approx(6)
    one.on = True
    one.learn()
    one.scale.data.mul_(1.1)
    assert float(one.step) * 255 == pytest.approx(6)
    assert float(one.eval()(torch.tensor([9.0])).detach()) == pytest.approx(6)
    optimizer = torch.optim.SGD([one.scale], 1e-3)
    one.train()(torch.tensor([3.0, 9.0])).sum().backward()  # wants a larger step
    assert one.scale.item() * 255 == pytest.approx(6) and one.scale.grad.item() > 0
    optimizer.step()
    assert one.scale.item() * 255 < 6  # and may become smaller again


def test_a_weight_keeps_the_share_of_its_range_that_was_found():
    weight = torch.cat([noise(8, 99), torch.full((8, 1), 9.0)], 1)
    one = WeightQuant("layer", Grid(4, symmetric=True), 8, 0)
    one.fit_weight(-torch.full((8,), 3.0), torch.full((8,), 3.0), weight)
    one.on, one.ranges = True, "moving"
    before = one.scale.clone()
    one.train()(weight)
    torch.testing.assert_close(one.scale, before)
    one(weight * 2)
    torch.testing.assert_close(one.scale, 2 * before)
