"""How long a study takes, in words; no time is asserted."""

import re

import pytest

from kezuri.data import load_data
from kezuri.recipe.model_choice import ModelChoice
from kezuri.recipe.study import Layers, Plan, cells
from kezuri.recipe.study_time import Clock, spell

WORDS = r"about (\d+ h )?\d+ min"


@pytest.fixture
def plan(images):
    return Plan(
        data=str(images),
        student=ModelChoice("plain2", {"width": 0.25}),
        assistant=ModelChoice("plain2", {"width": 0.25}),
        teacher=ModelChoice("plain2", {"width": 0.5}),
        seeds=1,
        batch_size=8,
    )


def test_it_is_told_before_and_after_each_cell_but_the_last(plan, images):
    made = cells(plan, Layers(("a",), ("b",)))
    clock = Clock(plan, load_data(str(images)), "cpu", workers=1)
    assert re.fullmatch(WORDS, clock.begin(made))
    told = [clock.done(cell) for cell in made]
    assert all(re.fullmatch(f"; {WORDS} left", words) for words in told[:-1]) and told[-1] == ""
    assert clock.done(made[0]) == ""  # was done before


def test_a_model_that_cannot_be_built_does_not_stop_it(plan, images):
    clock = Clock(plan, load_data(str(images)), "cpu", workers=2)
    broken = Plan(data=plan.data, student=ModelChoice("no such model"))
    clock.plan = broken
    assert re.fullmatch(WORDS, clock.begin(cells(broken, Layers(("a",), ("b",)))))


@pytest.mark.parametrize(("seconds", "words"), [(3, "1 min"), (600, "10 min"), (3600 * 5 + 61, "5 h 1 min")])
def test_times_are_in_minutes_and_hours(seconds, words):
    assert spell(seconds) == words
