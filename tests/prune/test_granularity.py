import pytest
import torch

from kezuri.core.errors import RecipeError, UsageError
from kezuri.prune.granularity import Block, Channel, Weight


def test_channels_need_couplings():
    with pytest.raises(UsageError, match=r"couple\(model, example_inputs\)"):
        Channel().groups({"w": torch.ones(2, 2)}, None)


def test_a_coupling_is_left_alone_when_one_of_its_producers_is(residual, couplings):
    weights = dict(residual.named_parameters())
    del weights["conv2.weight"]
    assert [group.name for group in Channel().groups(weights, couplings)] == ["conv1"]


def test_a_coupling_that_may_not_be_cut_is_no_group(residual, couplings):
    names = [group.name for group in Channel().groups(dict(residual.named_parameters()), couplings)]
    assert names == ["stem", "conv1"]


def test_the_larger_floor_holds(residual, couplings):
    weights = dict(residual.named_parameters())
    assert [g.floor for g in Channel(floor=1, floor_fraction=0.5).groups(weights, couplings)] == [2, 3]
    assert [g.floor for g in Channel(floor=3, floor_fraction=0.5).groups(weights, couplings)] == [3, 3]
    assert [g.floor for g in Channel().groups(weights, couplings)] == [1, 1]


def test_single_weights_have_no_floor():
    assert Weight().groups({"w": torch.ones(2, 2)}, None)[0].floor == 0


def test_settings_are_checked():
    with pytest.raises(RecipeError, match="0x1"):
        Block(0, 1)
    with pytest.raises(RecipeError, match="floor=0"):
        Channel(floor=0)
    with pytest.raises(RecipeError, match=r"1\.5"):
        Channel(floor_fraction=1.5)
    with pytest.raises(RecipeError, match="'max'"):
        Channel(producers="max")
