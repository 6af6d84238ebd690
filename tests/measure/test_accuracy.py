import pytest
from hypothesis import given
from hypothesis import strategies as st

from kezuri.core.errors import UsageError
from kezuri.measure.accuracy import accuracy_measurement, wilson

counts = st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    # Newcombe (1998), table I, method 3: the four examples worked there
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_published_intervals(correct: int, n: int, low: float, high: float) -> None:
    assert wilson(correct, n) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(counts)
def test_the_interval_holds_the_fraction_and_stays_within_0_and_1(count: tuple[int, int]) -> None:
    correct, n = count
    low, high = wilson(correct, n)
    assert 0 <= low <= correct / n <= high <= 1
    assert low < high


@given(counts)
def test_swapping_right_and_wrong_mirrors_the_interval(count: tuple[int, int]) -> None:
    correct, n = count
    low, high = wilson(correct, n)
    other_low, other_high = wilson(n - correct, n)
    assert (1 - other_high, 1 - other_low) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))


@given(counts, st.integers(2, 50))
def test_more_images_narrow_the_interval(count: tuple[int, int], times: int) -> None:
    few, many = wilson(*count), wilson(count[0] * times, count[1] * times)
    assert many[1] - many[0] < few[1] - few[0]


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_impossible_counts_are_refused(correct: int, n: int) -> None:
    with pytest.raises(UsageError, match=f"got {correct} of {n}"):
        wilson(correct, n)


def test_as_a_measurement() -> None:
    measured = accuracy_measurement(90, 100, split="validation")
    assert (measured.metric, measured.value, measured.unit, measured.samples) == (
        "accuracy",
        0.9,
        "fraction",
        100,
    )
    assert (measured.low, measured.high) == wilson(90, 100)
    assert measured.conditions == {"split": "validation"}
