"""The role of an executor: where independent pieces of work run, one after the other or side by side."""

import atexit
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process, resource_tracker
from typing import Any, Protocol, TypeVar

from kezuri.core.errors import ResourceError, UsageError
from kezuri.core.registry import Registry

Item = TypeVar("Item")
Result = TypeVar("Result")

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
"""What keeps a worker to one core; read when torch or NumPy is first imported."""

LEAVING = 5.0  # seconds that a worker without work may take to leave and tidy up

_environment = threading.Lock()
_workers: "set[_Worker]" = set()


class Executor(Protocol):
    """Runs a function on every item; a frozen dataclass whose fields are its settings.

    What comes out does not depend on the member. An error of the function ends the work and is raised as it
    was; so does leaving the iterator before its end. Items are taken as they are needed.
    """

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """The results, in the order of the items.

        Raises:
            UsageError: function or items cannot be sent to another process.
            ResourceError: another process ended in the middle of its work.
        """
        ...

    def completed(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Iterator[tuple[int, Result]]:
        """The results as they come, each with the place of its item."""
        ...

    def staying(self) -> AbstractContextManager["Executor"]:
        """The same for several calls: what takes long to start stays until the context is left."""
        ...


executors: Registry[type[Executor]] = Registry("executor")


@executors.register("inline")
@dataclass(frozen=True)
class Inline:
    """One after the other, in this process."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        return map(function, items)

    def completed(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Iterator[tuple[int, Result]]:
        return ((place, function(item)) for place, item in enumerate(items))

    def staying(self) -> AbstractContextManager["Inline"]:
        return nullcontext(self)


@executors.register("processes")
@dataclass(frozen=True)
class Processes:
    """Side by side, each in a fresh process of its own that uses one thread.

    The function is pickled once a worker, items and results one by one; a function must therefore be found
    by its name in a module. Workers end with this process, however it ends.

    Attributes:
        workers: how many at once; by default as many as this process may use cores.
    """

    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UsageError(
                f"workers is 1 or more, or null for as many as there are cores; got {self.workers}"
            )

    @property
    def count(self) -> int:
        """How many workers there are at most."""
        if self.workers is not None:
            return self.workers
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        return _in_order(self.completed(function, items))

    def completed(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Generator[tuple[int, Result]]:
        with self.staying() as pool:
            yield from pool.completed(function, items)

    @contextmanager
    def staying(self) -> Iterator["_Pool"]:
        pool = _Pool(self.count)
        try:
            yield pool
        finally:
            pool.end()


class _Pool:
    """Workers that wait for work; each is started when there is something for it to do."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._idle: list[_Worker] = []
        self._busy: dict[connection.Connection, tuple[_Worker, int]] = {}

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        return _in_order(self.completed(function, items))

    def completed(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Generator[tuple[int, Result]]:
        if self._busy:
            raise UsageError("these workers are busy with another call; finish it first")
        packed, numbered = _packed(function), enumerate(items)
        try:
            self._give(packed, numbered)
            while self._busy:
                ready = connection.wait(list(self._busy))[0]
                worker, place = self._busy[ready]  # type: ignore[index]
                result = worker.result()
                self._idle.append(self._busy.pop(worker.pipe)[0])
                self._give(packed, numbered)
                yield place, result
        finally:
            for worker, _ in self._busy.values():
                worker.end()
            self._busy.clear()

    def staying(self) -> AbstractContextManager["_Pool"]:
        return nullcontext(self)

    def end(self) -> None:
        """Ends the workers, whatever they do; those that wait leave by themselves, and tidy up."""
        for worker, _ in self._busy.values():
            worker.end()
        for worker in self._idle:
            worker.dismiss()
        for worker in self._idle:
            worker.end()
        self._idle.clear()
        self._busy.clear()

    def _give(self, packed: bytes, numbered: Iterator[tuple[int, Any]]) -> None:
        """Work for as many as there is work for."""
        while len(self._busy) < self._most and (following := next(numbered, None)) is not None:
            place, item = following
            content = _packed(item)
            worker = self._idle.pop() if self._idle else _Worker()
            self._busy[worker.pipe] = worker, place
            worker.begin(packed, content)


class _Worker:
    """Another process and the pipe to it."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs,))
        self._knows: bytes | None = None
        with _environment_of_workers():
            self._process.start()
        theirs.close()
        _workers.add(self)

    def begin(self, function: bytes, item: bytes) -> None:
        try:
            if self._knows is not function:
                self.pipe.send_bytes(b"f" + function)
                self._knows = function
            self.pipe.send_bytes(b"i" + item)
        except OSError as error:
            raise self._lost() from error

    def result(self) -> Any:
        try:
            content = self.pipe.recv_bytes()
        except (EOFError, OSError) as error:
            raise self._lost() from error
        failed, value = pickle.loads(content)
        if failed:
            raise value
        return value

    def dismiss(self) -> None:
        """Tells a worker that waits for work that there is none any more."""
        self.pipe.close()

    def end(self) -> None:
        if self not in _workers:
            return
        _workers.discard(self)
        if self.pipe.closed:
            self._process.join(LEAVING)
        self._process.kill()
        self._process.join()
        self._process.close()
        self.pipe.close()

    def _lost(self) -> ResourceError:
        self._process.join()
        code = self._process.exitcode or 0
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        hint = (
            "most likely memory ran out; try fewer workers"
            if code == -signal.SIGKILL
            else 'a script that starts processes keeps its own work under `if __name__ == "__main__":`'
        )
        return ResourceError(f"a worker process {how} in the middle of its work ({hint})")


def _work(pipe: connection.Connection) -> None:
    """What a worker does until nobody wants anything from it any more."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    function: Callable[[Any], Any] | bytes = b""
    while True:
        try:
            message = pipe.recv_bytes()
        except EOFError:
            return
        if message[:1] == b"f":
            function = message[1:]
            continue
        try:
            if isinstance(function, bytes):
                function = pickle.loads(function)
            assert not isinstance(function, bytes)
            answer = pickle.dumps((False, function(pickle.loads(message[1:]))))
        except Exception as error:
            answer = _packed_error(error)
        pipe.send_bytes(answer)


def _end_with_parent() -> None:
    """A parent that was killed cannot end its workers; a pipe tells them that it is gone."""
    parent = parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


@atexit.register
def _end_all() -> None:
    """Ends what was left in the middle, which would be waited for."""
    for worker in list(_workers):
        worker.end()


def _packed(value: object) -> bytes:
    try:
        return pickle.dumps(value)
    except Exception as error:  # what pickle raises depends on what it meets
        raise UsageError(
            f"{value!r:.80} cannot be sent to another process: {error} (functions and classes must be "
            f"defined at the top of a module; the executor 'inline' sends nothing)"
        ) from error


def _packed_error(error: Exception) -> bytes:
    error.add_note("in a worker process:\n" + "".join(traceback.format_exception(error)))
    try:
        content = pickle.dumps((True, error))
        pickle.loads(content)  # some errors can be written and not read
    except Exception:
        return pickle.dumps((True, RuntimeError(f"{type(error).__name__}: {error}")))
    return content


def _in_order(results: Generator[tuple[int, Result]]) -> Iterator[Result]:
    early: dict[int, Result] = {}
    following = 0
    with closing(results):
        for place, result in results:
            early[place] = result
            while following in early:
                yield early.pop(following)
                following += 1


@contextmanager
def _environment_of_workers() -> Iterator[None]:
    """A process started now uses one thread, and leaves Ctrl-C to the one that started it."""
    resource_tracker.ensure_running()  # would be started along, and unblock the signal
    with _environment:
        before = {name: os.environ.get(name) for name in ONE_THREAD}
        os.environ.update(ONE_THREAD)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
