import copy

import pytest
import torch
from torch import nn

from kezuri.measure.macs import count_macs, count_params
from kezuri.model.coupling import couple
from kezuri.model.zoo import zoo
from kezuri.recipe.costs import Cost, Costs, hollow


class Literal(nn.Module):
    """Its view holds a size as a number, so that only a rewritten program can be cut."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(12, 32), nn.Linear(32, 12)

    def forward(self, x):
        return self.b(self.a(x).relu().view(-1, 4, 8).flatten(1))


class Table(nn.Module):
    """Looks values up in a list that is no tensor until `forward`, so that nothing can run without content."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        return self.b(self.a(x).relu() * torch.tensor([2.0])).mean((2, 3))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.read, self.head = (
            nn.Embedding(9, 6),
            nn.LSTM(6, 10, batch_first=True),
            nn.Linear(10, 3),
        )

    def forward(self, tokens):
        return self.head(self.read(self.table(tokens))[0])


MODELS = {
    "resnet8": (lambda: zoo["resnet8"](), torch.zeros(2, 3, 16, 16)),
    "literal": (Literal, torch.zeros(2, 12)),
    "table": (Table, torch.zeros(2, 3, 9, 9)),
    "recurrent": (Recurrent, torch.zeros(2, 5, dtype=torch.long)),
}


@pytest.mark.parametrize("name", MODELS)
def test_costs_are_those_of_the_model_that_is_built(name):
    build, inputs = MODELS[name]
    torch.manual_seed(0)
    model = build()
    before = copy.deepcopy(model.state_dict())
    couplings = couple(model, inputs, result="auto")
    assert couplings.free
    costs = Costs(model, couplings, inputs)
    assert costs.of({}) == Cost(count_params(model), count_macs(model, inputs))
    half = {c.name: torch.arange(c.width) % 2 == 0 for c in couplings.free}
    small = costs.build(half)
    assert costs.of(half) == Cost(count_params(small), count_macs(small, inputs))
    assert costs.of(half).params < costs.of({}).params
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_hollow_copy_has_shapes_and_no_content():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model[0].bias.requires_grad_(False)
    empty = hollow(model)
    assert {tensor.device.type for tensor in empty.state_dict().values()} == {"meta"}
    assert [tuple(p.shape) for p in empty.parameters()] == [tuple(p.shape) for p in model.parameters()]
    assert [p.requires_grad for p in empty.parameters()] == [True, False, True, True]
    assert model[0].weight.device.type == "cpu"
