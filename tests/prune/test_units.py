import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kezuri.calibrate.sites import scored_weights
from kezuri.model.coupling import Coupling, Couplings, Member
from kezuri.prune.granularity import Block, Channel, Filter, Weight

shapes = st.one_of(
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3)),
)
tilings = st.one_of(
    st.just(Weight()), st.just(Filter()), st.builds(Block, rows=st.integers(1, 4), columns=st.integers(1, 4))
)


@settings(deadline=None)
@given(shapes, tilings, st.randoms(use_true_random=False))
def test_tiles_expand_and_pool_are_each_other_s_inverse(shape, granularity, random):
    (group,) = granularity.groups({"w": torch.zeros(shape)}, None)
    kept = torch.tensor([random.random() < 0.5 for _ in group.sizes])
    mask = group.expand(kept)["w"]
    assert mask.shape == torch.Size(shape)
    assert mask.dtype == torch.bool
    assert int(mask.sum()) == int(group.sizes[kept].sum())
    assert torch.equal(group.pool({"w": mask}) > 0.5, kept)
    assert int(group.sizes.sum()) == mask.numel()


def test_weights_are_neighbours_along_the_input_channels():
    weight = torch.arange(24.0).view(2, 3, 2, 2)
    (group,) = Weight().groups({"w": weight}, None)
    assert group.run == 3
    assert group.pool({"w": weight})[:3].tolist() == weight[0, :, 0, 0].tolist()


def test_a_block_is_worth_the_mean_of_its_weights_and_is_smaller_at_the_edge():
    weight = torch.tensor([[1.0, 3.0, 10.0], [5.0, 7.0, 20.0], [2.0, 4.0, 6.0]])
    (group,) = Block(2, 2).groups({"w": weight}, None)
    assert group.sizes.tolist() == [4, 2, 2, 1]
    assert group.pool({"w": weight}).tolist() == [4, 15, 3, 6]


def test_a_filter_is_worth_the_mean_of_its_weights():
    weight = torch.stack([torch.full((3, 2, 2), 2.0), torch.full((3, 2, 2), 5.0)])
    (group,) = Filter().groups({"w": weight}, None)
    assert group.pool({"w": weight}).tolist() == [2, 5]
    assert group.sizes.tolist() == [12, 12]
    assert group.floor == 1


def test_a_channel_takes_its_slice_of_every_weight_with_it(residual, couplings):
    stream, inner = Channel().groups(scored_weights(residual), couplings)
    assert stream.sizes.tolist() == [27 + 54 + 54 + 4 * 5] * 4
    assert inner.sizes.tolist() == [36 + 36] * 6
    masks = stream.expand(torch.tensor([True, False, True, True]))
    assert masks.keys() == {"stem.weight", "conv1.weight", "conv2.weight", "head.weight"}
    assert not masks["stem.weight"][1].any()
    assert not masks["conv1.weight"][:, 1].any()
    assert masks["head.weight"][0].tolist() == [True] * 4 + [False] * 4 + [True] * 8


def test_a_channel_is_worth_the_sum_or_the_mean_over_its_producers(residual, couplings):
    weights = dict(residual.named_parameters())
    scores = {"stem.weight": torch.ones(4, 3, 3, 3), "conv2.weight": torch.full((4, 6, 3, 3), 3.0)}
    for producers, worth in (("sum", 4.0), ("mean", 2.0)):
        stream, _ = Channel(producers=producers).groups(weights, couplings)
        assert list(stream.scored.items()) == [("stem.weight", 0), ("conv2.weight", 0)]
        assert stream.pool(scores).tolist() == [worth] * 4


def test_a_weight_that_writes_and_reads_the_same_channels_is_counted_once():
    positions = torch.arange(4).numpy().reshape(4, 1)
    members = (Member("loop.weight", 0, positions, "output"), Member("loop.weight", 1, positions, "input"))
    looped = Coupling("loop", 4, members, None)
    (group,) = Channel().groups({"loop.weight": torch.ones(4, 4, 3, 3)}, Couplings((looped,), {}, ()))
    assert group.sizes.tolist() == [9 * (16 - 9)] * 4
    mask = group.expand(torch.tensor([True, True, True, False]))["loop.weight"]
    assert int((~mask).sum()) == 9 * 7


def test_outputs_are_found_along_any_dimension():
    outputs = Member("up.weight", 1, np.arange(3)[:, None], "output")
    (group,) = Channel().groups(
        {"up.weight": torch.ones(2, 3, 1)}, Couplings((Coupling("up", 3, (outputs,), None),), {}, ())
    )
    assert group.scored == {"up.weight": 1}
    scores = torch.tensor([[[1.0], [2], [3]], [[3.0], [4], [5]]])
    assert group.pool({"up.weight": scores}).tolist() == [2, 3, 4]


def test_channels_that_no_weight_produces_are_judged_by_those_who_read_them():
    tokens = Member("tokens", 2, np.arange(3)[:, None], "other")
    reader = Member("head.weight", 1, np.arange(3)[:, None], "input")
    couplings = Couplings((Coupling("head input", 3, (tokens, reader), None),), {}, ())
    (group,) = Channel().groups({"head.weight": torch.ones(2, 3)}, couplings)
    assert group.scored == {"head.weight": 1}
    assert group.pool({"head.weight": torch.tensor([[1.0, 2, 3], [3, 4, 5]])}).tolist() == [2, 3, 4]
    assert Channel().groups({"other.weight": torch.ones(2, 3)}, couplings) == []


def test_groups_of_equal_shape_are_alike(residual, couplings):
    stream, inner = Channel().groups(scored_weights(residual), couplings)
    other = Coupling("twin", 6, couplings.named("conv1").members, None)
    (twin,) = Channel().groups(scored_weights(residual), Couplings((other,), {}, ()))
    assert inner.likeness == twin.likeness != stream.likeness
    weights = {"a": torch.ones(4, 3), "b": torch.zeros(4, 3), "c": torch.ones(3, 4)}
    a, b, c = (group.likeness for group in Weight().groups(weights, None))
    assert a == b != c
    assert a != Filter().groups(weights, None)[0].likeness


@pytest.mark.parametrize(("round_to", "floor", "expected"), [(1, 1, 1), (1, 3, 3), (4, 1, 4), (8, 1, 6)])
def test_a_floor_is_rounded_up_to_whole_steps_or_everything(residual, couplings, round_to, floor, expected):
    weights = dict(residual.named_parameters())
    inner = Channel(floor=floor, round_to=round_to).groups(weights, couplings)[1]
    assert inner.floor == expected
