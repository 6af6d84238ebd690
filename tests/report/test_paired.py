"""The statistics of pairs against tables, brute force and symmetry."""

from itertools import product
from math import fsum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kezuri.core.errors import UsageError
from kezuri.report.paired import paired, student

PERCENT = st.integers(-200, 200).map(lambda count: count / 10_000)


@pytest.mark.parametrize(
    ("freedom", "reach"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423), (120, 1.9799)],
)
def test_student_is_as_printed_in_tables(freedom, reach):
    assert student(freedom) == pytest.approx(reach, abs=5e-5)


def test_student_at_other_confidences():
    assert student(9, 0.99) == pytest.approx(3.2498, abs=5e-5)
    assert student(5, 0.5) == pytest.approx(0.7267, abs=5e-5)


@given(st.lists(PERCENT, min_size=1, max_size=9))
def test_p_values_count_every_flip(differences):
    ways = [
        fsum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in product((1, -1), repeat=len(differences))
    ]
    total = fsum(differences)
    found = paired(differences)
    assert found.exact
    assert found.greater == sum(way >= total - 1e-9 for way in ways) / len(ways)
    assert found.different == sum(abs(way) >= abs(total) - 1e-9 for way in ways) / len(ways)


@given(st.lists(PERCENT, min_size=2, max_size=12))
def test_the_other_way_round_is_the_mirror_image(differences):
    found, mirrored = paired(differences), paired([-one for one in differences])
    assert found.different == mirrored.different
    assert (found.low, found.high) == pytest.approx((-mirrored.high, -mirrored.low))
    assert found.low <= found.mean <= found.high
    assert found.greater + mirrored.greater >= 1


@given(st.lists(PERCENT, min_size=6, max_size=10), st.floats(0.001, 100))
def test_p_values_do_not_depend_on_the_unit(differences, unit):
    found, scaled = paired(differences), paired([one * unit for one in differences])
    assert (found.greater, found.different) == (scaled.greater, scaled.different)


def test_ten_of_ten_are_ahead():
    found = paired([0.01 * step for step in range(1, 11)])
    assert (found.greater, found.different, found.pairs) == (1 / 1024, 2 / 1024, 10)
    assert found.mean == pytest.approx(0.055)
    # standard deviation 0.0302765, by 2.26216 / √10
    assert found.high - found.mean == pytest.approx(0.0216585, abs=1e-6)


def test_equals_are_not_told_apart():
    found = paired([0.0] * 8)
    assert (found.mean, found.low, found.high, found.greater, found.different) == (0, 0, 0, 1, 1)


def test_a_single_pair_has_no_interval():
    found = paired([0.3])
    assert (found.low, found.high, found.greater, found.different) == (None, None, 0.5, 1.0)


def test_many_pairs_are_sampled_alike_every_time():
    ahead = [0.01, -0.004] * 15
    found = paired(ahead)
    assert not found.exact and found == paired(ahead)
    # normal: mean 0.003, standard error 0.00139 with the mean at 0
    assert found.greater == pytest.approx(0.0155, abs=0.006)
    assert found.different == pytest.approx(2 * found.greater, rel=0.2)
    assert paired([1.0] * 25).greater == 1 / 100_001


def test_no_pairs_are_refused():
    with pytest.raises(UsageError, match="at least one pair, got none"):
        paired([])
