"""Ctrl-C waits for the work to be whole: a step that can be gone on from, a call that would swallow it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from kezuri.core.errors import Interrupted


@contextmanager
def held_back() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether Ctrl-C was pressed; a second press interrupts at once.

    Outside the main thread, and where somebody else handles the signal, nothing is held back.

    Raises:
        KeyboardInterrupt: it was pressed, and the block ended otherwise than by saying so: it was done, or
            failed, as what was called may have turned the second press into an error of its own.
    """
    pressed = False

    def note(_number: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    except Exception as error:
        if pressed and not isinstance(error, Interrupted):
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pressed:
        raise KeyboardInterrupt
