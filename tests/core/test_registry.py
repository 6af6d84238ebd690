import pytest

from kezuri.core.errors import UnknownName
from kezuri.core.registry import Registry

shapes = Registry("shape")


@shapes.register("square")
class Square:
    pass


def test_gives_what_was_registered():
    assert shapes["square"] is Square and shapes.name_of(Square()) == "square" and list(shapes) == ["square"]


def test_an_unknown_name_is_answered_with_what_there_is():
    with pytest.raises(
        UnknownName, match=r"no shape named 'sqare' \(have: square\); did you mean 'square'\?"
    ):
        shapes["sqare"]


def test_a_name_is_given_once():
    with pytest.raises(ValueError, match="two shape members are named 'square'"):
        shapes.register("square")(Square)
