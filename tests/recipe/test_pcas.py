from dataclasses import fields
from math import inf, nan

import pytest

from kezuri.core.errors import UsageError
from kezuri.prune.criteria.norm import L2
from kezuri.prune.criteria.pcas import Pcas
from kezuri.prune.granularity import Channel
from kezuri.prune.schedule import Iterative
from kezuri.prune.scope import Global
from kezuri.recipe.finetune import Finetune
from kezuri.recipe.steps.pcas import PcasLoop
from kezuri.recipe.steps.prune import Prune

SHARED = {"keep", "saturation", "ignore", "payoff", "budget", "criterion"}


def test_the_loop_is_a_prune_step_spelled_out():
    knobs = {"saturation": 0.1, "ignore": ("conv1",), "payoff": 5.0, "budget": {"latency": 0.5, "macs": 0.4}}
    loop = PcasLoop(rate=(0.3, 0.2), rounds=2, floor=4, round_to=8, narrow="finer", residual=True, **knobs)
    assert loop.as_prune() == Prune(
        criterion=Pcas(epochs=1.0),
        granularity=Channel(floor=4, round_to=8, narrow="finer", producers="mean", residual=True),
        scope=Global(count="units"),
        schedule=Iterative(rounds=2, rate=(0.3, 0.2)),
        finetune=Finetune(epochs=10.0, lr=0.1, lr_ratio=0.5, batch_size=128),
        **knobs,
    )
    assert {f.name for f in fields(PcasLoop)} & {f.name for f in fields(Prune)} == SHARED


def test_nothing_is_rounded_or_timed_unless_asked_for():
    plain = PcasLoop(criterion=L2()).as_prune()
    assert plain.granularity == Channel(floor=2, producers="mean", residual=False)
    assert plain.payoff == 0 and plain.budget is None


@pytest.mark.parametrize("epochs", [nan, inf, 0.0, -1.0])
def test_epochs_of_the_gates_are_a_number_above_zero(epochs):
    with pytest.raises(UsageError, match="attention_epochs must be a number above 0, got"):
        PcasLoop(attention_epochs=epochs)
