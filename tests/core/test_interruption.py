import os
import signal
import threading
from collections.abc import Iterator

import pytest

from kezuri.core.errors import Interrupted, ModelError
from kezuri.core.interruption import held_back


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Ctrl-C is heard, also where a shell started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_it_waits_for_the_block_and_is_not_lost() -> None:
    done = False
    with pytest.raises(KeyboardInterrupt), held_back() as interrupted:
        assert not interrupted()
        press()
        done = interrupted()
    assert done and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with held_back() as interrupted:
        assert not interrupted()


def test_a_second_press_interrupts_at_once_even_if_it_is_taken_for_an_error() -> None:
    with pytest.raises(KeyboardInterrupt), held_back():
        press()
        try:
            press()
        except KeyboardInterrupt as error:
            raise ModelError("the model is at fault") from error


def test_what_is_said_of_it_is_passed_on() -> None:
    with pytest.raises(Interrupted, match="after 3 steps"), held_back():
        press()
        raise Interrupted("after 3 steps")
    with pytest.raises(ModelError), held_back():
        raise ModelError("nobody pressed anything")


def test_the_outermost_block_hears_it() -> None:
    inner = False
    with pytest.raises(KeyboardInterrupt), held_back() as interrupted:
        with held_back():
            press()
        inner = interrupted()
    assert inner


def test_other_threads_hold_nothing_back() -> None:
    found = []

    def work() -> None:
        with held_back() as interrupted:
            found.append(interrupted())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False] and signal.getsignal(signal.SIGINT) is signal.default_int_handler
