import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kezuri.core.errors import DataError, UsageError
from kezuri.data import load_data
from kezuri.data.splits import few_of_each, set_aside


@given(
    counts=st.lists(st.integers(0, 30), min_size=2, max_size=6).filter(lambda c: sum(n > 1 for n in c) >= 1),
    share=st.floats(0.02, 0.9),
    seed=st.integers(0, 2**62),
)
def test_parts_are_disjoint_complete_and_exact(counts: list[int], share: float, seed: int) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    wanted = round(share * len(labels))
    if not 0 < wanted <= sum(max(0, n - 1) for n in counts):
        with pytest.raises(DataError):
            set_aside(labels, share, seed=seed, purpose="validation")
        return
    kept, aside = set_aside(labels, share, seed=seed, purpose="validation")
    assert len(aside) == wanted
    assert torch.equal(torch.cat([kept, aside]).sort().values, torch.arange(len(labels)))
    assert torch.equal(kept, kept.sort().values)
    assert set(labels[kept].tolist()) == set(labels.tolist())


def test_each_class_gives_its_share() -> None:
    labels = torch.tensor([0] * 1000 + [1] * 100 + [2] * 10)[torch.randperm(1110)]
    _, aside = set_aside(labels, 0.1, seed=0, purpose="validation")
    assert torch.bincount(labels[aside]).tolist() == [100, 10, 1]


def test_a_count_is_taken_exactly() -> None:
    _, aside = set_aside(torch.arange(90) % 9, 10, seed=0, purpose="validation")
    assert len(aside) == 10
    assert sorted(torch.bincount(aside % 9, minlength=9).tolist()) == [1] * 8 + [2]


def test_seed_and_purpose_decide_alone() -> None:
    labels = torch.arange(100) % 4

    def aside(seed: int, purpose: str) -> list[int]:
        return set_aside(labels, 0.2, seed=seed, purpose=purpose)[1].tolist()

    assert aside(0, "validation") == aside(0, "validation")
    assert aside(0, "validation") != aside(1, "validation")
    assert aside(0, "validation") != aside(0, "test")


@pytest.mark.parametrize("share", [0, 0.0, 1.0, -0.1, -5, True, float("nan")])
def test_shares_that_make_no_sense_are_refused(share: float) -> None:
    with pytest.raises(UsageError, match=r"the validation share is a fraction in .* got"):
        set_aside(torch.arange(20) % 2, share, seed=0, purpose="validation")


@pytest.mark.parametrize("share", [0.001, 19, 20, 400])
def test_too_few_images_are_said(share: float) -> None:
    with pytest.raises(DataError, match=r"of 20 images cannot be set aside for test.* each of the 2 classes"):
        set_aside(torch.arange(20) % 2, share, seed=0, purpose="test")


def test_few_of_each_class_are_drawn_by_the_seed() -> None:
    labels = torch.arange(60) % 4
    places = few_of_each(labels, 5, classes=4, seed=1)
    assert torch.bincount(labels[places]).tolist() == [5] * 4
    assert places.tolist() == sorted(set(places.tolist()))
    assert torch.equal(places, few_of_each(labels, 5, classes=4, seed=1))
    assert not torch.equal(places, few_of_each(labels, 5, classes=4, seed=2))
    assert {*places.tolist()} < {*few_of_each(labels, 6, classes=4, seed=1).tolist()}


def test_a_class_with_too_few_images_is_named() -> None:
    with pytest.raises(DataError, match="class 2 has 0 images, 1 are asked for"):
        few_of_each(torch.arange(60) % 2, 1, classes=3, seed=0)
    with pytest.raises(UsageError, match="at least 1 image of each class is needed, got 0"):
        few_of_each(torch.arange(60) % 2, 0, classes=2, seed=0)


@pytest.mark.parametrize(("source", "held_out"), [("train", 0.1), ("test", 0.5)])
def test_what_is_set_aside_where_no_number_is_given(source, held_out):
    data = load_data("fashion-mini", validation_from=source)
    rest = data.train if source == "train" else data.test
    assert len(data.validation) == pytest.approx(held_out * (len(data.validation) + len(rest)), rel=0.01)
