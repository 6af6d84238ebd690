import pytest

from kezuri.core.errors import GoalUnreachable, UsageError
from kezuri.core.goal import Goal


@pytest.mark.parametrize(
    ("asked", "start", "floor"), [(-0.01, 0.9, 0.89), (0.0, 0.9, 0.9), (0.85, 0.9, 0.85)]
)
def test_the_floor_is_a_drop_or_an_accuracy(asked, start, floor):
    assert Goal(accuracy=asked).floor(start) == pytest.approx(floor)


def test_a_floor_above_the_start_cannot_be_met():
    with pytest.raises(GoalUnreachable, match=r"95\.00%.*starts at 90\.00%"):
        Goal(accuracy=0.95).floor(0.9)


@pytest.mark.parametrize(
    "settings", [{"accuracy": 1.0}, {"accuracy": -1}, {"params": 0}, {"params": 2}, {"size": 0}, {"latency": -1}, {"objective": "best"}]
)  # fmt: skip
def test_values_that_mean_nothing_are_refused(settings):
    with pytest.raises(UsageError, match=str(next(iter(settings.values())))):
        Goal(**settings)


def test_reads_as_a_sentence():
    assert (
        str(Goal(accuracy=-0.015, params=0.25))
        == "smallest model with accuracy drop ≤ 1.5 points, params ≤ 25%"
    )
