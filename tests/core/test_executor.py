"""Workers: one thread each, their own errors, and none that outlives the process it works for."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kezuri.core.errors import ResourceError, UsageError
from kezuri.core.executor import Inline, Processes

PID = "__import__('os').getpid()"
WAITS = f"""\
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs without it
from kezuri.core.executor import Processes
with Processes(2).staying() as workers:
    for pid in workers.map(eval, ["{PID}"] + ["(__import__('time').sleep(0.1), {PID})[1]"] * 4):
        print(pid, flush=True)
    print("ready", flush=True)
    list(workers.map(eval, ["__import__('time').sleep(60)"] * 4))
"""


@pytest.fixture(scope="module")
def workers():
    with Processes(2).staying() as staying:
        yield staying


def test_workers_use_one_thread_and_leave_the_environment_alone(workers) -> None:
    before = dict(os.environ)
    names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"]
    assert list(workers.map(os.getenv, names)) == ["1", "1", "1"]
    assert dict(os.environ) == before


def test_workers_are_other_processes_and_stay(workers) -> None:
    first, second = (set(workers.map(eval, [PID] * 6)) for _ in range(2))
    assert os.getpid() not in first and first | second and len(first | second) <= 2


def test_workers_without_work_clean_up_before_they_end(tmp_path) -> None:
    """Else what libraries made in them, such as semaphores, is told as leaked when the process ends."""
    left = tmp_path / "left"
    leaves = (
        "__import__('multiprocessing.util', fromlist=['Finalize']).Finalize("
        f"None, open, args=({str(left)!r}, 'w'), exitpriority=1)"
    )
    assert len(list(Processes(1).map(eval, [f"bool({leaves})"]))) == 1
    assert left.exists()


def test_without_staying_workers_end_with_the_call() -> None:
    (pid,) = Processes(1).map(eval, [PID])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_work_is_done_side_by_side(workers, tmp_path) -> None:
    # each ends when it sees that the other began: one after the other, the first would wait for ever
    begun, other = str(tmp_path / "begun"), str(tmp_path / "other")
    meet = "(lambda os, time: (open({!r}, 'w').close(), [*iter(lambda: (time.sleep(0.01), os.path.exists({!r}))[1], True)]))"
    call = meet + "(__import__('os'), __import__('time')) and 'met'"
    assert list(workers.map(eval, [call.format(begun, other), call.format(other, begun)])) == ["met", "met"]


def test_an_error_tells_where_it_was_raised(workers) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        list(workers.map(eval, ["1 / 0"]))
    assert "in a worker process" in caught.value.__notes__[0] and "1 / 0" not in str(caught.value)


def test_an_error_that_cannot_be_sent_keeps_its_message(workers) -> None:
    made = "type('Odd', (Exception,), {})('not enough of it')"
    with pytest.raises(RuntimeError, match="Odd: not enough of it"):
        list(workers.map(eval, [f"(_ for _ in ()).throw({made})"]))


def test_what_cannot_be_sent_is_refused(workers) -> None:
    with pytest.raises(
        UsageError, match=r"lambda.*cannot be sent to another process.*'inline' sends nothing"
    ):
        list(workers.map(lambda item: item, [1]))
    with pytest.raises(UsageError, match="cannot be sent"):
        list(workers.map(str, [1, lambda: 0]))
    with pytest.raises(TypeError, match="pickle"):  # a result
        list(workers.map(eval, ["__import__('threading').Lock()"]))


def test_a_worker_that_dies_is_said(workers) -> None:
    with pytest.raises(ResourceError, match="worker process ended with exit code 3"):
        list(workers.map(os._exit, [3]))
    with pytest.raises(ResourceError, match=r"ended by signal 9.*memory ran out; try fewer workers"):
        list(workers.map(eval, ["__import__('os').kill(__import__('os').getpid(), 9)"]))


def test_two_calls_at_once_are_refused(workers) -> None:
    first = workers.completed(abs, range(-9, 0))
    results = dict([next(first)])
    with pytest.raises(UsageError, match="busy with another call"):
        next(workers.map(abs, [1]))
    assert results | dict(first) == {place: 9 - place for place in range(9)}


@pytest.mark.parametrize("workers", [0, -1])
def test_refuses_fewer_than_one_worker(workers: int) -> None:
    with pytest.raises(UsageError, match=f"workers is 1 or more.*got {workers}"):
        Processes(workers)


def test_uses_the_cores_there_are() -> None:
    assert Processes().count >= 1 and Processes(3).count == 3


def test_inline_works_as_asked() -> None:
    taken = []
    results = Inline().map(taken.append, range(3))
    assert taken == []
    next(results)
    assert taken == [0]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_a_parent_that_was_killed(number: signal.Signals) -> None:
    parent, pids = _waiting()
    parent.send_signal(number)
    parent.communicate()
    _all_gone(pids)


def test_an_iterator_left_in_the_middle_does_not_keep_the_process() -> None:
    code = (
        "from kezuri.core.executor import Processes\n"
        "results = Processes(2).map(eval, ['1', \"__import__('time').sleep(600)\"] * 2)\n"
        "print(next(results))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "1\n", "")


def test_workers_may_start_processes_of_their_own(workers) -> None:
    start = "(lambda child: (child.start(), child.join(), child.exitcode)[2])(__import__('multiprocessing').Process(target=int))"
    assert list(workers.map(eval, [start])) == [0]


def test_ctrl_c_ends_the_workers_quietly() -> None:
    parent, pids = _waiting()
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, said = parent.communicate()
    assert said.strip().endswith("KeyboardInterrupt") and said.count("Traceback") == 1
    _all_gone(pids)


def _waiting() -> tuple[subprocess.Popen, set[int]]:
    """A process in the middle of its work, and its workers."""
    parent = subprocess.Popen(
        [sys.executable, "-c", WAITS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    pids = set()
    while (line := parent.stdout.readline()) != "ready\n":
        assert line, parent.stderr.read()
        pids.add(int(line))
    return parent, pids


def _all_gone(pids: set[int]) -> None:
    assert pids
    while any(_runs(pid) for pid in pids):
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
