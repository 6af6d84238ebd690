import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kezuri.report import numbers


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.percent(0.93581), "93.58 %"),
        (numbers.points(-0.004), "−0.4 points"),
        (numbers.points(0.01), "+1 point"),
        (numbers.points(1e-9), "±0 points"),
        (numbers.size(1_234_567), "1.23 MB"),
        (numbers.size(512), "512 B"),
        (numbers.size(16_600), "16.6 kB"),
        (numbers.milliseconds(0.8449), "0.845 ms"),
        (numbers.times(3.94), "3.9×"),
        (numbers.times(0.83), "0.83×"),
        (numbers.count(272_474), "272,474"),
        (numbers.count(31_800_000), "31.8 M"),
        (numbers.duration(4.25), "4.2 s"),
        (numbers.duration(119.7), "2 min 0 s"),
        (numbers.duration(14_520), "4 h 2 min"),
        (numbers.reduction(100, 17), "−83 %"),
        (numbers.significant(0.9999), "1.00"),
        (numbers.significant(3.1e-7, 2), "3.1e−07"),
        (numbers.setting([0.3, 0.3, 0.15], scale=100), "30, 30, 15"),
        (numbers.setting([0.1] * 12, scale=100), "10, 10, 10, 10, …, 10"),
    ],
)
def test_numbers_read_as_people_write_them(shown: str, expected: str) -> None:
    assert shown == expected


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_what_was_not_measured_is_a_dash(missing: float | None) -> None:
    shown = [numbers.percent(missing), numbers.size(missing), numbers.count(missing), numbers.points(missing)]
    shown += [numbers.milliseconds(missing), numbers.times(missing), numbers.duration(missing)]
    shown += [numbers.reduction(1.0, missing), numbers.fixed(missing, 2), numbers.setting(missing)]
    assert set(shown) == {numbers.DASH}


@given(st.floats(min_value=1e-4, max_value=1e9))
def test_three_digits_keep_the_value_to_half_a_percent(value: float) -> None:
    assert float(numbers.significant(value).replace(",", "")) == pytest.approx(value, rel=0.0051)


@pytest.mark.parametrize(
    ("ratio", "better", "words"),
    [
        (3.9, "smaller", "3.9× smaller"),
        (0.5, "smaller", "2.0× larger"),
        (0.8, "faster", "1.2× slower"),
        (1.001, "faster", "the same"),
        (2.0, "more", "2.0× more"),
        (None, "more", "–"),
        (0.0, "more", "–"),
    ],
)
def test_a_ratio_says_its_direction(ratio: float | None, better: str, words: str) -> None:
    assert numbers.change(ratio, better) == words  # type: ignore[arg-type]
