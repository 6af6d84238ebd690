import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kezuri.core.errors import UnknownName, UsageError
from kezuri.prune.allocation import Uniform
from kezuri.prune.scope import Contest, Global, Isomorphic, Local
from kezuri.prune.units import UnitGroup
from kezuri.recipe.budget import Nested, check_budget, is_same


class Singles(UnitGroup):
    """Units of one weight each."""

    def pool(self, scores):
        return scores[self.name]

    def spread(self, values, fill):
        return {self.name: values}


def nested(widths, scope, step=1):
    groups = [
        Singles(n, torch.ones(w, dtype=torch.int64), step, w, step, {n: 0}, None, w)
        for n, w in widths.items()
    ]
    generator = torch.Generator().manual_seed(0)
    contest = Contest(groups, {n: torch.rand(w, generator=generator) for n, w in widths.items()})
    return Nested(lambda sparsity: scope.select(contest, sparsity, Uniform()))


def left(proposal):
    return sum(int(kept.sum()) for kept in proposal.values())


def test_ceilings_are_checked():
    assert check_budget({"macs": 0.5, "size": 1000}) == {"macs": 0.5, "size": 1000.0}
    with pytest.raises(UnknownName, match=r"no budget named 'mac'.*did you mean 'macs'"):
        check_budget({"mac": 0.5})
    for wrong in (0, -1, True, "half", float("nan")):
        with pytest.raises(UsageError, match=r"fraction of the dense model's in \(0, 1\)"):
            check_budget({"params": wrong})
    with pytest.raises(UsageError, match="empty"):
        check_budget({})


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=4),
    st.sampled_from([Global(), Local(), Isomorphic()]),
    st.floats(0, 1),
    st.integers(1, 3),
)
def test_the_first_that_holds_is_met_by_no_more_than_it_takes(widths, scope, share, step):
    proposals = nested({str(i): width for i, width in enumerate(widths)}, scope, step)
    ceiling = int(share * sum(widths))
    least = proposals.first(lambda proposal: left(proposal) <= ceiling)
    if least is None:
        assert left(proposals.most) > ceiling
        return
    found = proposals.select(least).kept
    assert left(found) <= ceiling
    # all that remove less, at any sparsity, are above the ceiling
    for sparsity in torch.linspace(0, 0.999, 60).tolist():
        other = proposals.select(sparsity).kept
        assert left(other) >= left(found) or left(other) <= ceiling
        assert left(other) <= left(found) or left(other) > ceiling


@pytest.mark.parametrize("bend", [1.0, 1.5, 0.6])
def test_what_takes_long_is_measured_a_few_times(bend):
    proposals = nested({"a": 400, "b": 300}, Global())
    seen = []

    def measure(proposal):
        seen.append(left(proposal))
        return 3 + 7 * (left(proposal) / 700) ** bend

    found = proposals.measured_first(measure, 6.5, like=left, near=0.02)
    assert 6.5 * 0.98 <= measure(proposals.select(found).kept) <= 6.5
    assert len(seen) <= 8
    assert proposals.measured_first(measure, 10, like=left, near=0.02) == 0.0
    assert proposals.measured_first(measure, 3, like=left, near=0.02) is None


def test_no_more_is_considered_than_is_allowed():
    whole = nested({"a": 40, "b": 30}, Global())
    capped = Nested(whole.select, highest=0.3)
    assert left(capped.most) == 49
    assert left(capped.select(capped.first(lambda proposal: left(proposal) <= 60)).kept) == 60
    assert capped.first(lambda proposal: left(proposal) <= 48) is None
    assert capped.measured_first(left, 48, like=left, near=0.02) is None
    assert capped.measured_first(left, 49, like=left, near=0.02) == 0.3


def test_proposals_that_keep_the_same_units_are_the_same():
    more, less = {"a": torch.tensor([True, True])}, {"a": torch.tensor([True, False])}
    assert not is_same(more, less)
    assert is_same(more, {"a": torch.tensor([True, True])})
