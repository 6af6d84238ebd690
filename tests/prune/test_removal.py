import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kezuri.prune.granularity import Channel
from kezuri.prune.removal import removal_order, remove

few = st.integers(0, 2)


def channel_groups(residual, couplings):
    return Channel(floor_fraction=0).groups(dict(residual.named_parameters()), couplings)


def weights_gone(groups, kept):
    masks = {}
    for group in groups:
        for name, mask in group.expand(kept[group.name]).items():
            masks[name] = mask & masks.get(name, True)
    return sum(int((~mask).sum()) for mask in masks.values()), sum(mask.numel() for mask in masks.values())


@given(scores=st.lists(few, min_size=10, max_size=10), sparsity=st.floats(0, 0.95))
@settings(max_examples=60, deadline=None)
def test_weights_between_two_removed_channels_count_once(scores, sparsity, make_residual, couplings):
    groups = channel_groups(make_residual(), couplings)
    stem, inner = (torch.tensor(part, dtype=torch.float64) for part in (scores[:4], scores[4:]))
    removal = remove(groups, {"stem": stem, "conv1": inner}, sparsity, "weights")
    gone, total = weights_gone(groups, removal.kept)
    assert removal.total == total
    assert gone - sparsity * total < max(int(group.sizes.max()) for group in groups)
    if removal.missing:
        assert gone + removal.missing == pytest.approx(sparsity * total, abs=1)
    else:
        assert gone >= sparsity * total - 1e-5


def test_counts_units_when_asked(residual, couplings):
    groups = channel_groups(residual, couplings)
    scores = {"stem": torch.arange(4.0) + 10, "conv1": torch.arange(6.0)}
    removal = remove(groups, scores, 0.4, "units")
    assert removal.total == 10
    assert removal.kept["conv1"].tolist() == [False] * 4 + [True] * 2
    assert removal.kept["stem"].all()


def test_units_go_in_steps_so_that_the_number_kept_is_a_multiple(residual, couplings):
    groups = Channel(round_to=4).groups(dict(residual.named_parameters()), couplings)
    scores = {"stem": torch.arange(4.0) + 10, "conv1": torch.arange(6.0)}
    kept = remove(groups, scores, 0.1, "units").kept
    assert kept["conv1"].tolist() == [False] * 2 + [True] * 4
    assert kept["stem"].all()


def test_of_equals_the_higher_index_goes_first():
    assert removal_order(torch.tensor([1.0, 0.0, 1.0, 0.0])).tolist() == [3, 1, 2, 0]
