import pytest
import torch
from torch import nn

from kezuri.core.errors import UsageError
from kezuri.model.coupling import couple
from kezuri.recipe.costs import Costs
from kezuri.recipe.payoff import PayoffCheck, check_payoff
from kezuri.recipe.timing import Timing


def small_and_large():
    """Two small couplings of equal shape, and one that holds nearly all parameters."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU()),
        *(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU()),
        *(nn.Linear(4, 9000), nn.ReLU(), nn.Linear(9000, 4)),
    ).eval()


INPUTS = torch.zeros(2, 4)


@pytest.fixture
def check():
    model = small_and_large()
    costs = Costs(model, couple(model, INPUTS), INPUTS)
    with Timing(costs, "torch") as timing:
        yield PayoffCheck(timing, 2.0)


def proposal(costs, share=0.5):
    return {c.name: torch.arange(c.width) < share * c.width for c in costs.couplings.free}


def test_only_small_couplings_can_be_refused_and_equal_ones_together(check):
    asked = proposal(check.costs)
    assert set(asked) == {"0", "2", "4", "6", "8"}
    check.least_time = 1e9  # no cut can bring that much
    refused = check.refusals(asked)
    assert set(refused) == {"0", "2", "4"}  # "6" is read by the large one
    assert "of the time and 0.0" in refused["0"]
    check.least_time = -1e9
    assert check.refusals(asked) == {}
    check.least_time, check.least_params = 1e9, 0.0
    assert check.refusals(asked) == {}


def test_what_is_refused_is_little_all_in_all(check):
    asked = proposal(check.costs)
    check.least_time = 1e9
    classes = ({"0", "4"}, {"2"})
    without = [
        check.costs.params({name: kept for name, kept in asked.items() if name not in names})
        for names in classes
    ]
    shares = [(params - check.costs.params(asked)) / check.costs.params({}) for params in without]
    check.least_params = max(shares) * 1.001  # enough for either, not for both
    assert set(check.refusals(asked)) in classes
    check.least_params = sum(shares) * 1.001
    assert set(check.refusals(asked)) == {"0", "2", "4"}


def test_what_is_refused_stays_whole_in_what_is_measured(check):
    check.least_time = 1e9
    found = check.judge(proposal(check.costs))
    assert set(found.refused) == {"0", "2", "4"}
    only_large = {"6": torch.arange(4) < 2, "8": torch.arange(9000) < 4500}
    assert found.size_after.value == check.timing.prepared(only_large).size.value < found.size_before.value
    assert "0 left whole: cutting it saves" in str(found)


def test_the_best_of_several_roundings(check):
    asked = {8: proposal(check.costs, 0.9), 16: proposal(check.costs, 0.9), 4: proposal(check.costs, 0.01)}
    check.seconds = 60.0
    rounding, tried = check.best(asked)
    assert set(tried) == {8, 4}  # 16 has the shapes of 8
    assert rounding in tried
    check.least_time = 1e9
    assert check.best(asked)[0] == 8
    check.seconds = 1e-9
    assert set(check.best(asked)[1]) == {8}
    assert check.untried == ["multiples of 4"]


def test_figures_come_with_their_spread():
    model = small_and_large()
    couplings = couple(model, INPUTS)
    kept = {"8": torch.arange(9000) < 1000}
    found = check_payoff(model, couplings, kept, INPUTS, seconds=0.1)
    for figure in (found.before, found.after, found.speedup):
        assert figure.low <= figure.value <= figure.high and figure.samples >= 30
    assert found.after.conditions["runtime"] == "onnxruntime"
    assert found.size_after.value < 0.2 * found.size_before.value
    assert found.seconds > 0
    assert f"{found.speedup.value:.3g} times" in str(found)


def test_mistakes_are_named():
    model = small_and_large()
    couplings = couple(model, INPUTS)
    with pytest.raises(UsageError, match="more than 0 seconds"):
        check_payoff(model, couplings, {}, INPUTS, seconds=0)
    with pytest.raises(UsageError, match="bool tensor of shape"):
        check_payoff(model, couplings, {"8": torch.ones(2)}, INPUTS, runtime="torch", seconds=0.1)
