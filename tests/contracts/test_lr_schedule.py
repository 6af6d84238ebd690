"""Laws of every learning-rate schedule."""

import itertools
import math
from typing import Any

import pytest

from kezuri.core.errors import UsageError
from kezuri.train.lr_schedules import Constant, Cosine, Step, lr_schedules

NEEDED: dict[str, dict[str, Any]] = {"step": {"milestones": (4.0, 8.0)}}
TOTAL = 10.0
names = pytest.mark.parametrize("name", sorted(lr_schedules))


def make(name: str, **settings: Any) -> Any:
    return lr_schedules[name](**{**NEEDED.get(name, {}), **settings})


@names
def test_starts_at_one_without_warmup_and_stays_in_range(name: str) -> None:
    schedule = make(name)
    assert schedule(0.0, TOTAL) == 1.0
    assert all(0 <= schedule(TOTAL * i / 500, TOTAL) <= 1 for i in range(501))


@names
def test_never_rises_after_the_warmup(name: str) -> None:
    schedule = make(name, warmup=2.0)
    factors = [schedule(2 + 8 * i / 400, TOTAL) for i in range(401)]
    assert factors[0] == 1.0
    assert all(later <= earlier for earlier, later in itertools.pairwise(factors))


@names
def test_warms_up_in_proportion(name: str) -> None:
    schedule = make(name, warmup=2.0)
    for progress in (0.0, 0.25, 0.5, 1.0, 1.5):
        assert schedule(progress, TOTAL) == progress / 2


@names
def test_is_a_pure_function(name: str) -> None:
    schedule = make(name, warmup=0.5)
    forward = [schedule(i / 10, TOTAL) for i in range(101)]
    backward = [schedule(i / 10, TOTAL) for i in reversed(range(101))]
    assert forward == backward[::-1]


@names
@pytest.mark.parametrize("warmup", [-0.1, math.inf, math.nan])
def test_refuses_a_warmup_that_is_none(name: str, warmup: float) -> None:
    with pytest.raises(UsageError, match="warmup"):
        make(name, warmup=warmup)


def test_cosine_exactly() -> None:
    for i in range(101):
        assert Cosine()(i / 10, TOTAL) == pytest.approx((1 + math.cos(math.pi * i / 100)) / 2, abs=1e-15)
    assert Cosine(warmup=2.0)(6.0, TOTAL) == pytest.approx(0.5)
    assert Cosine()(TOTAL, TOTAL) == 0.0


def test_constant_exactly() -> None:
    assert [Constant()(p, TOTAL) for p in (0.0, 3.3, 10.0)] == [1.0, 1.0, 1.0]


def test_step_exactly() -> None:
    schedule = Step(milestones=(4.0, 8.0), factor=0.5)
    assert [schedule(p, TOTAL) for p in (0.0, 3.999, 4.0, 7.999, 8.0, 10.0)] == [1, 1, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("milestones", [(), (0.0, 2.0), (3.0, 2.0), (2.0, 2.0)])
def test_step_refuses_milestones_out_of_order(milestones: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="milestones"):
        Step(milestones=milestones)


@pytest.mark.parametrize("factor", [0.0, -1.0, 1.5])
def test_step_refuses_a_factor_that_does_not_shrink(factor: float) -> None:
    with pytest.raises(UsageError, match="factor"):
        Step(milestones=(1.0,), factor=factor)
