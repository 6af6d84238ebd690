"""What every schedule must do. A new one is covered by being registered."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kezuri.prune.schedule import schedules


@pytest.fixture(scope="module", params=sorted(schedules))
def schedule(request):
    return schedules[request.param]()


def test_there_are_schedules_to_test():
    assert len(schedules) >= 2


def test_begins_with_nothing_and_leaves_something(schedule):
    assert schedule(0) == 0
    assert 0 < schedule(1) < 1


@settings(deadline=None)
@given(progress=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_never_shrinks(schedule, progress):
    before, after = sorted(progress)
    assert 0 <= schedule(before) <= schedule(after) <= schedule(1)


def test_the_last_round_ends_where_progress_ends(schedule):
    targets = schedule.targets()
    assert len(targets) == schedule.rounds >= 1
    assert targets[-1] == schedule(1)


def test_the_rates_of_the_rounds_lead_to_the_targets(schedule):
    left = 1.0
    for rate, target in zip(schedule.rates(), schedule.targets(), strict=True):
        left *= 1 - rate
        assert 1 - left == pytest.approx(target)
