"""Too few validation images to tell the drop that is allowed are warned of, at check and at the start."""

import json

import pytest

from kezuri.core.goal import Goal
from kezuri.recipe.check import estimate
from kezuri.recipe.document import parse
from kezuri.recipe.prepare import prepare
from kezuri.recipe.recipe import recipe_from
from kezuri.recipe.sample_size import doubts, half_width, images_for


def prepared(recipe_text, accuracy):
    return prepare(recipe_from(parse(recipe_text.replace("-0.9", str(accuracy)))), device="cpu")


def test_few_images_cannot_tell_a_point(recipe_text, tmp_path):
    (warning,) = doubts(prepared(recipe_text, -0.01))
    assert "validation images cannot tell a drop of 1 point: its 95 % interval is about ±" in warning
    assert "about 1,600 images would" in warning
    assert warning in estimate(prepared(recipe_text, -0.01), tmp_path).warnings


@pytest.mark.parametrize("accuracy", [-0.9, -0.45, 0.5, 0.0])
def test_nothing_is_warned_of_where_it_can_or_nothing_is_to_be_told(recipe_text, accuracy):
    assert doubts(prepared(recipe_text, accuracy)) == []


def test_a_step_may_keep_more_than_the_goal(recipe_text):
    (warning,) = doubts(prepared(f"{recipe_text}    keep: {{accuracy: -0.02}}\n", -0.9))
    assert "cannot tell a drop of 2 points" in warning
    distil = {"use": "distill", "student": {"use": "resnet8"}, "keep": "last"}  # weights, not an accuracy
    (warning,) = doubts(
        prepared(f"{recipe_text.partition('  - use: pcas')[0]}  - {json.dumps(distil)}\n", -0.01)
    )
    assert "cannot tell a drop of 1 point" in warning


def test_more_images_tell_smaller_drops():
    assert half_width(50) == pytest.approx(0.0554, abs=1e-4)
    for drop in (0.005, 0.01, 0.05):
        assert half_width(images_for(drop)) <= drop < half_width(images_for(drop) // 2)
    assert Goal().holds_accuracy and not Goal(accuracy=-0.99).holds_accuracy
