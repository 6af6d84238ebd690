"""Laws of every executor."""

import operator
from functools import partial

import pytest

from kezuri.core.errors import UsageError
from kezuri.core.executor import Executor, executors
from kezuri.core.goal import Goal


@pytest.fixture(scope="module", params=sorted(executors))
def executor(request):
    with executors[request.param]().staying() as staying:
        yield staying


def test_gives_the_results_in_order(executor: Executor) -> None:
    long_before_short = [300_000, 2, 100_000, 1, 0]
    assert list(executor.map(partial(pow, 3), long_before_short)) == [3**n for n in long_before_short]


def test_gives_each_result_with_its_place(executor: Executor) -> None:
    done = dict(executor.completed(operator.neg, range(10)))
    assert done == {place: -place for place in range(10)}


def test_works_on_any_iterable_even_an_empty_one(executor: Executor) -> None:
    assert list(executor.map(operator.neg, iter([1.5, 2]))) == [-1.5, -2]
    assert list(executor.map(operator.neg, [])) == []


def test_an_error_comes_back_as_it_was(executor: Executor) -> None:
    with pytest.raises(UsageError, match=r"the accuracy to keep is a fraction.*got 3"):
        list(executor.map(partial(Goal, "smallest"), [-0.01, 3]))
    with pytest.raises(ZeroDivisionError, match="division or modulo by zero"):
        list(executor.completed(partial(operator.floordiv, 1), [1, 0]))


def test_goes_on_after_an_error_and_after_a_call_that_was_left(executor: Executor) -> None:
    with pytest.raises(ZeroDivisionError):
        list(executor.map(partial(operator.floordiv, 1), [0, 1, 2]))
    assert next(iter(executor.map(operator.neg, range(1, 100)))) == -1
    assert list(executor.map(operator.neg, range(5))) == [0, -1, -2, -3, -4]


def test_an_error_of_the_items_is_raised(executor: Executor) -> None:
    with pytest.raises(ZeroDivisionError):
        list(executor.map(operator.neg, (1 // place for place in (2, 1, 0))))


@pytest.mark.parametrize("name", sorted(executors))
def test_equal_settings_are_equal(name: str) -> None:
    assert executors[name]() == executors[name]()
