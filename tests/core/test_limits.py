"""What takes too long is ended, wherever it is."""

from time import monotonic

import pytest

from kezuri.core.limits import OutOfTime, until


def test_ends_a_loop() -> None:
    begin = monotonic()
    with pytest.raises(OutOfTime), until(begin + 0.2):
        while True:
            pass
    assert monotonic() - begin < 5


def test_ends_what_swallows_errors() -> None:
    def stubborn() -> None:
        for _ in range(2):  # the first is caught here, the second comes a second later
            try:
                while True:
                    pass
            except BaseException:
                continue
        raise AssertionError("was ended twice, and went on")

    with pytest.raises(AssertionError, match="twice"), until(monotonic() + 0.1):
        stubborn()


def test_leaves_alone_what_is_done_in_time() -> None:
    with until(monotonic() + 0.05):
        value = 1
    later = monotonic() + 0.2
    while monotonic() < later:
        value += 1
    assert value > 1


def test_begins_nothing_too_late() -> None:
    with pytest.raises(OutOfTime), until(monotonic() - 1):
        pytest.fail("was begun")


def test_ends_the_inner_of_two() -> None:
    begin = monotonic()
    with until(begin + 60):
        with pytest.raises(OutOfTime), until(begin + 0.1):
            while True:
                pass
        assert monotonic() - begin < 30
