"""Ends what takes too long, wherever it is: a loop in a user's code as well as our own."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

AGAIN_SECONDS = 1.0


class OutOfTime(BaseException):
    """Raised inside what runs when its time is over; no `except Exception` on the way stops it."""


@contextmanager
def until(deadline: float) -> Iterator[None]:
    """Ends what the block does, in this thread, at a moment of `time.monotonic()`.

    Python code ends at once, a call into C when it returns.

    Raises:
        OutOfTime: it was not done by then, or the moment has passed.
    """
    if monotonic() >= deadline:
        raise OutOfTime
    thread = ctypes.c_ulong(threading.get_ident())
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    lock, done = threading.Lock(), threading.Event()

    def watch() -> None:
        wait = deadline - monotonic()
        while not done.wait(max(0.0, wait)):
            with lock:
                if not done.is_set():
                    raise_in(thread, ctypes.py_object(OutOfTime))
            wait = AGAIN_SECONDS  # something may have swallowed it

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        with lock:
            raise_in(thread, None)  # what was raised and has not arrived
