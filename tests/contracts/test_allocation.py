"""What every allocation must do. A new one is covered by being registered."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kezuri.prune.allocation import allocations
from kezuri.prune.granularity import Filter, Weight

ALLOCATIONS = [allocations[name]() for name in sorted(allocations)]
shapes = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 20), st.integers(1, 20)),
        st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3), st.just(3)),
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.parametrize("allocation", ALLOCATIONS, ids=sorted(allocations))
@settings(deadline=None)
@given(shapes=shapes, sparsity=st.floats(0, 0.99), granularity=st.sampled_from([Weight(), Filter()]))
def test_every_group_gets_a_share_and_together_they_make_the_sparsity(
    allocation, shapes, sparsity, granularity
):
    weights = {f"layer{i}.weight": torch.zeros(shape) for i, shape in enumerate(shapes)}
    groups = granularity.groups(weights, None)
    shares = allocation(groups, sparsity)
    assert list(shares) == list(weights)
    assert all(0 <= share < 1 for share in shares.values())
    removed = sum(shares[name] * weight.numel() for name, weight in weights.items())
    total = sum(weight.numel() for weight in weights.values())
    assert removed == pytest.approx(sparsity * total, rel=1e-6, abs=1e-6)


def test_there_are_allocations_to_test():
    assert len(ALLOCATIONS) >= 3
