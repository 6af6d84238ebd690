"""What every granularity must do. A new one is covered by being registered."""

import pytest
import torch
from torch import nn

from kezuri.calibrate.sites import scored_weights
from kezuri.model.coupling import couple
from kezuri.model.zoo import zoo
from kezuri.prune.granularity import granularities


class Decoder(nn.Module):
    """A transposed convolution between plain ones."""

    def __init__(self):
        super().__init__()
        self.down, self.up, self.out = nn.Conv2d(1, 6, 3), nn.ConvTranspose2d(6, 4, 3), nn.Conv2d(4, 2, 3)

    def forward(self, x):
        return self.out(self.up(self.down(x).relu()).relu())


# With BatchNorm and residual sums; with neither, where a channel is many inputs of a layer; outputs last.
NETS = {
    "resnet20": (lambda: zoo["resnet20"](classes=10, channels=3), (2, 3, 32, 32)),
    "lenet5": (lambda: zoo["lenet5"](classes=10, channels=1), (2, 1, 28, 28)),
    "decoder": (Decoder, (2, 1, 9, 9)),
}


@pytest.fixture(scope="module", params=NETS)
def analysed(request):
    build, shape = NETS[request.param]
    torch.manual_seed(0)
    model = build().eval()
    return model, couple(model, torch.zeros(shape))


@pytest.fixture(params=sorted(granularities))
def granularity(request):
    return granularities[request.param]()


@pytest.fixture
def net(granularity, analysed):
    model, couplings = analysed
    return scored_weights(model, couplings if granularity.coupled else None), couplings


@pytest.fixture
def groups(granularity, net):
    return granularity.groups(*net)


def test_there_are_granularities_to_test():
    assert len(granularities) >= 4


def test_finds_groups_with_names_of_their_own(granularity, groups):
    names = [group.name for group in groups]
    assert names
    assert len(set(names)) == len(names)
    assert granularity.finest in ("weight", "channel")


def test_sizes_are_the_weights_that_go_with_each_unit(groups):
    for group in groups:
        assert group.sizes.dtype == torch.int64
        assert (group.sizes > 0).all()
        for unit in {0, len(group.sizes) // 2, len(group.sizes) - 1}:
            kept = torch.ones(len(group.sizes), dtype=torch.bool)
            kept[unit] = False
            removed = sum(int((~mask).sum()) for mask in group.expand(kept).values())
            assert removed == group.sizes[unit]


def test_masks_fit_the_weights(net, groups):
    weights, _ = net
    for group in groups:
        everything = group.expand(torch.ones(len(group.sizes), dtype=torch.bool))
        assert set(group.scored) <= set(everything) <= set(weights)
        for name, mask in everything.items():
            assert mask.dtype == torch.bool
            assert mask.shape == weights[name].shape
            assert mask.all()


def test_a_unit_is_worth_something_between_the_worst_and_the_best_of_its_scores(net, groups):
    weights, _ = net
    for group in groups:
        ones = {name: torch.ones_like(weights[name]) for name in group.scored}
        worth = group.pool(ones)
        assert worth.dtype == torch.float64
        assert worth.shape == group.sizes.shape
        torch.testing.assert_close(worth, worth[:1].expand_as(worth))
        torch.testing.assert_close(worth * 3, group.pool({name: one * 3 for name, one in ones.items()}))


def test_scores_reach_the_unit_that_removes_their_weight(net, groups):
    weights, _ = net
    for group in groups:
        unit = len(group.sizes) // 2
        kept = torch.ones(len(group.sizes), dtype=torch.bool)
        kept[unit] = False
        masks = group.expand(kept)
        scores = {name: (~masks[name]).float().expand(weights[name].shape) for name in group.scored}
        assert group.pool(scores).argmax() == unit


def test_floors_runs_and_steps_make_sense(groups):
    for group in groups:
        units = len(group.sizes)
        assert 0 <= group.floor <= units
        assert group.step >= 1
        assert units % group.run == 0


def test_a_layer_left_out_is_in_no_mask(granularity, net):
    weights, couplings = net
    gone = next(iter(weights))
    fewer = {name: weight for name, weight in weights.items() if name != gone}
    groups = granularity.groups(fewer, couplings)
    assert groups
    assert all(gone not in group.expand(torch.ones(len(group.sizes), dtype=torch.bool)) for group in groups)
