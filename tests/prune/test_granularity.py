import numpy as np
import pytest
import torch

from kezuri.core.errors import RecipeError, UsageError
from kezuri.model.coupling import Coupling, Member
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


def coupling(width, each, *, reads=1):
    outputs = np.arange(width * each).reshape(width, each)
    inputs = np.arange(width * reads).reshape(width, reads)
    members = (Member("a.weight", 0, outputs, "output"), Member("b.weight", 1, inputs, "input"))
    return Coupling("a", width, members, None)


@pytest.mark.parametrize(
    ("width", "each", "reads", "units"),
    [(64, 1, 1, 8), (12, 64, 64, 1), (12, 12, 12, 2), (12, 4, 4, 2), (64, 4, 1, 8), (64, 1, 49, 8)],
)
def test_rounding_counts_channels_of_the_narrowest_place(width, each, reads, units):
    assert Channel(round_to=8).step(coupling(width, each, reads=reads)) == units


@pytest.mark.parametrize(
    ("width", "units"), [(64, 8), (32, 8), (31, 4), (16, 4), (12, 2), (8, 2), (7, 1), (4, 1), (2, 1)]
)
def test_narrow_layers_may_be_rounded_finer(width, units):
    assert Channel(round_to=8, narrow="finer").step(coupling(width, 1)) == units
    assert Channel(round_to=8).step(coupling(width, 1)) == 8


def test_heads_of_a_narrow_layer_count_their_channels():
    assert Channel(round_to=8, narrow="finer").step(coupling(4, 4, reads=4)) == 1
    assert Channel(round_to=8, narrow="finer").step(coupling(3, 4, reads=4)) == 1
    assert Channel(round_to=8, narrow="finer").step(coupling(8, 4, reads=4)) == 2


def test_settings_are_checked():
    with pytest.raises(RecipeError, match="0x1"):
        Block(0, 1)
    with pytest.raises(RecipeError, match="floor=0"):
        Channel(floor=0)
    with pytest.raises(RecipeError, match=r"1\.5"):
        Channel(floor_fraction=1.5)
    with pytest.raises(RecipeError, match="'wider'"):
        Channel(narrow="wider")
    with pytest.raises(RecipeError, match="'max'"):
        Channel(producers="max")
