import pytest

from kezuri.core.errors import RecipeError
from kezuri.prune.schedule import Iterative, OneShot


def test_one_shot_does_it_all_in_one_round():
    assert OneShot(0.7).targets() == [0.7]
    assert OneShot(0.7).rates() == [0.7]
    assert OneShot(0.7)(0.99) == 0


def test_a_rate_of_what_remains_compounds():
    schedule = Iterative(rounds=14, rate=0.2)  # the levels of lottery tickets
    targets = schedule.targets()
    assert [round(targets[n - 1], 3) for n in (1, 2, 3, 5, 10, 14)] == [0.2, 0.36, 0.488, 0.672, 0.893, 0.956]
    assert schedule.rates() == pytest.approx([0.2] * 14)


def test_each_round_may_have_its_own_rate():
    schedule = Iterative(rounds=3, rate=[0.5, 0.2, 0.1])
    assert schedule.targets() == pytest.approx([0.5, 0.6, 0.64])
    assert schedule.rates() == pytest.approx([0.5, 0.2, 0.1])


def test_a_rate_of_the_original_adds_up():
    schedule = Iterative(rounds=3, rate=0.2, rate_of="original")
    assert schedule.targets() == pytest.approx([0.2, 0.4, 0.6])
    assert schedule.rates() == pytest.approx([0.2, 0.25, 1 / 3])


def test_between_rounds_nothing_grows():
    schedule = Iterative(rounds=4, rate=0.5)
    assert [schedule(p) for p in (0, 0.24, 0.25, 0.49, 0.5, 1)] == [0, 0, 0.5, 0.5, 0.75, 0.9375]


@pytest.mark.parametrize("rounds", [3, 6, 7, 49])
def test_the_last_round_is_reached_whatever_the_number_of_rounds(rounds):
    assert len(set(Iterative(rounds=rounds, rate=0.1).targets())) == rounds


def test_settings_are_checked():
    with pytest.raises(RecipeError, match="2 values for 3 rounds"):
        Iterative(rounds=3, rate=(0.1, 0.2))
    with pytest.raises(RecipeError, match=r"got 1\.0"):
        Iterative(rate=1.0)
    with pytest.raises(RecipeError, match=r"in \(0, 1\), got 0"):
        Iterative(rounds=2, rate=(0.1, 0))
    with pytest.raises(RecipeError, match="rounds=0"):
        Iterative(rounds=0)
    with pytest.raises(RecipeError, match=r"add up to 1\.5"):
        Iterative(rounds=5, rate=0.3, rate_of="original")
    with pytest.raises(RecipeError, match="'channels'"):
        Iterative(rate_of="channels")
    with pytest.raises(RecipeError, match=r"got 1\.2"):
        OneShot(1.2)
