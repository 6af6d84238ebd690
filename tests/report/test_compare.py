from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kezuri.core.errors import DataError, UnknownName, UsageError
from kezuri.report.compare import compare, front

MakeRun = Callable[..., Path]

# Few distinct values, so that ties are common.
POINTS = st.lists(st.tuples(st.integers(0, 6).map(float), st.integers(1, 6).map(float)), max_size=30)


def _beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] >= b[0] and a[1] <= b[1] and a != b


@given(POINTS)
def test_the_front_is_exactly_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    expected = {i for i, p in enumerate(points) if not any(_beats(other, p) for other in points)}
    assert set(front(points)) == expected


@given(POINTS)
def test_along_the_front_size_and_accuracy_grow_together(points: list[tuple[float, float]]) -> None:
    line = [points[i] for i in front(points)]
    assert bool(line) == bool(points)
    for (low, small), (high, large) in pairwise(line):
        assert (low < high and small < large) or (low, small) == (high, large)


def test_runs_that_differ_only_by_seed_are_one_condition(make_run: MakeRun) -> None:
    folders = [make_run(f"r{seed}", seed=seed, accuracy=0.93 + 0.01 * seed) for seed in range(3)]
    (condition,) = compare(folders).conditions
    assert condition.accuracy is not None
    assert condition.accuracy.runs == 3
    assert condition.accuracy.value == pytest.approx(0.934)
    assert condition.accuracy.deviation == pytest.approx(0.01)
    assert condition.folders == tuple(folders)


def test_the_best_is_the_smallest_that_keeps_the_floor(make_run: MakeRun) -> None:
    folders = [
        make_run("careful", name="careful", rounds=3, drop=0.001),
        make_run("good", name="good", rounds=6, drop=0.008),
        make_run("greedy", name="greedy", rounds=9, drop=0.05),
    ]
    against_dense = compare(folders, keep=-0.01)
    assert against_dense.best is not None
    assert against_dense.best.name == "good"
    assert against_dense.headline().startswith("Smallest within 1 point of dense: good, ")
    strict = compare(folders, keep=0.925)
    assert strict.best is not None
    assert strict.best.name == "careful"
    hopeless = compare(folders, keep=0.99)
    assert hopeless.best is None
    assert hopeless.headline() == "No condition is with at least 99.00 %"
    assert compare(folders).best is None


def test_an_unfinished_run_is_listed_but_neither_on_the_front_nor_best(make_run: MakeRun) -> None:
    folders = [make_run("done", name="done"), make_run("half", name="half", rounds=9, status="interrupted")]
    result = compare(folders, keep=-0.5)
    half = next(c for c in result.conditions if c.name == "half")
    assert (half.on_front, half.qualifies, half.status) == (False, False, "interrupted")
    assert half.size is not None
    assert result.best is not None
    assert result.best.name == "done"
    assert result.split == "test"


@pytest.mark.parametrize(("sort", "first"), [("size", "many"), ("accuracy", "few"), ("name", "few")])
def test_the_order_is_the_one_asked_for(make_run: MakeRun, sort: str, first: str) -> None:
    folders = [make_run("a", name="many", rounds=7, drop=0.02), make_run("b", name="few", rounds=2)]
    assert compare(folders, sort=sort).conditions[0].name == first


def test_mistakes_are_answered_with_what_there_is(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    with pytest.raises(UnknownName, match="did you mean 'size'"):
        compare([run], sort="sise")
    with pytest.raises(UsageError, match="keep is a fraction"):
        compare([run], keep=90)
    with pytest.raises(UsageError, match="nothing to compare"):
        compare([])
    with pytest.raises(DataError, match="is not a run"):
        compare([run, tmp_path])


def test_a_folder_named_twice_counts_once(make_run: MakeRun) -> None:
    run = make_run()
    (condition,) = compare([run, run]).conditions
    assert condition.folders == (run,)
