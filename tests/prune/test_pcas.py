import copy

import pytest
import torch
from torch import nn

from kezuri.core.errors import RecipeError, UsageError
from kezuri.data import from_tensors
from kezuri.model.coupling import couple
from kezuri.prune.criteria.norm import L2
from kezuri.prune.criteria.pcas import Pcas
from kezuri.prune.gather import gather


class Useful(nn.Module):
    """Four channels carry the class, four are noise that the answer hardly uses."""

    def __init__(self):
        super().__init__()
        self.read = nn.Conv2d(1, 8, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.answer = nn.Conv2d(8, 2, 1, bias=False)
        with torch.no_grad():
            self.read.weight.fill_(1.0)
            self.read.weight[4:] = -1.0
            self.answer.weight.zero_()
            self.answer.weight[0, :4] = -1.0
            self.answer.weight[1, :4] = 1.0
            self.answer.weight[:, 4:] = 1e-3

    def forward(self, x):
        return self.answer(self.norm(self.read(x)).relu()).mean((2, 3))


@pytest.fixture
def problem():
    """Bright images are class 1, dark ones class 0."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 2
    images = torch.randn(400, 1, 4, 4, generator=draw) * 0.3 + (2.0 * labels.view(-1, 1, 1, 1) - 1)
    data = from_tensors((images, labels), validation=100, seed=0)
    model = Useful()
    model.train()
    for batch in data.train.batches(100):
        model(batch.images)
    return model.eval(), data


@pytest.mark.parametrize("gate", ["sigmoid", "softmax", "concrete"])
def test_channels_that_carry_the_class_get_more_attention(problem, gate):
    model, data = problem
    criterion = Pcas(gate=gate, epochs=20, lr=0.05)
    evidence = gather(model, criterion, data, couplings=couple(model, torch.zeros(2, 1, 4, 4)), batch_size=50)
    attention = evidence["read.weight"].gate
    assert attention.shape == (8,)
    assert attention[:4].mean() > attention[4:].mean() + 0.01


def test_the_model_is_left_as_it_was_and_the_seed_decides(problem):
    model, data = problem
    before = copy.deepcopy(model.state_dict())
    couplings = couple(model, torch.zeros(2, 1, 4, 4))

    def attention(seed):
        found = gather(model, Pcas(gate="concrete"), data, couplings=couplings, batch_size=50, seed=seed)
        return found["read.weight"].gate

    assert torch.equal(attention(1), attention(1)) and not torch.equal(attention(1), attention(2))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_couplings_are_needed(problem):
    model, data = problem
    with pytest.raises(UsageError, match="couplings=couple"):
        gather(model, Pcas(), data)


def test_a_criterion_that_needs_nothing_looks_at_no_data(problem):
    assert gather(problem[0], L2(), problem[1]) == {}


@pytest.mark.parametrize(
    "settings", [{"gate": "relu"}, {"epochs": 0}, {"lr": -1}, {"reduction": 0}, {"budget": 1.0}, {"pull": -1}]
)
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(RecipeError, match=str(next(iter(settings.values())))):
        Pcas(**settings)
