import os

import pytest

from kezuri.core.errors import UsageError
from kezuri.runtime.runner import thread_count


def test_all_threads_are_the_cores_of_this_process() -> None:
    assert thread_count("all") == len(os.sched_getaffinity(0))
    assert thread_count(3) == 3


@pytest.mark.parametrize("threads", [0, -1, "many", 1.5])
def test_other_numbers_of_threads_are_refused(threads: object) -> None:
    with pytest.raises(UsageError, match="from 1 to 256, or 'all'"):
        thread_count(threads)
