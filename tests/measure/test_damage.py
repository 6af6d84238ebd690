import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kezuri.core.errors import ShapeError
from kezuri.measure.damage import damage

LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
BEFORE = torch.tensor([0, 0, 0, 1, 1, 1, 0, 0])
AFTER = torch.tensor([0, 1, 0, 2, 0, 0, 2, 0])


def test_flips_and_losses_are_counted_and_the_worst_hit_comes_first() -> None:
    flipped, *classes = damage(LABELS, BEFORE, AFTER, ["cat", "dog", "eel", "fox"])
    assert (flipped.metric, flipped.value, flipped.samples) == ("flipped", 5 / 8, 8)
    assert flipped.low < 5 / 8 < flipped.high
    assert [(m.conditions["class_name"], m.value, m.samples) for m in classes] == [
        ("dog", 1.0, 2),
        ("cat", 0.25, 4),
        ("eel", -0.5, 2),
    ]
    assert {m.metric for m in classes} == {"class_damage"}


def test_nothing_changed_means_no_damage() -> None:
    assert [m.value for m in damage(LABELS, BEFORE, BEFORE, "abc")] == [0.0] * 4


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=50))
def test_losses_of_the_classes_add_up_to_the_loss_of_accuracy(rows: list[tuple[int, int, int]]) -> None:
    labels, before, after = torch.tensor(rows).T
    _, *classes = damage(labels, before, after, "abcde")
    lost = (before == labels).float().mean() - (after == labels).float().mean()
    assert sum(m.value * m.samples for m in classes) / len(rows) == pytest.approx(float(lost), abs=1e-6)
    assert [m.value for m in classes] == sorted((m.value for m in classes), reverse=True)


def test_lists_that_do_not_match_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\[8, 7, 8\]"):
        damage(LABELS, BEFORE[:7], AFTER, "abc")
    with pytest.raises(ShapeError, match=r"\[0, 0, 0\]"):
        damage(LABELS[:0], BEFORE[:0], AFTER[:0], "abc")
