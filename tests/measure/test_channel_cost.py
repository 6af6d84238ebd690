import copy

import pytest
import torch
from torch import Tensor, nn

from kezuri.measure.channel_cost import channel_costs
from kezuri.measure.macs import count_macs, count_params
from kezuri.model.coupling import couple
from kezuri.model.families import Couplings
from kezuri.model.load import ModelSpec, load_model
from kezuri.model.proof import cut

SHAPE = (3, 16, 16)


class Mixer(nn.Module):
    """Tokens are mixed for every channel by itself: fewer channels, less of that, and no weight narrower."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 4, 4)
        self.tokens = nn.Linear(16, 20)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.head(torch.relu(self.tokens(self.conv(x).flatten(2))).mean(2))
        return mixed


class Branches(nn.Module):
    """Groups, a depthwise layer, a concatenation, a weight used twice, a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.deep = nn.Conv2d(16, 32, 3, padding=1, groups=16)
        self.twice = nn.Conv2d(16, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(48, 24, 2, 2, groups=2)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.cat([self.twice(torch.relu(self.twice(x))), self.deep(x)], 1)
        logits: Tensor = self.head(torch.relu(self.up(x)).mean((2, 3)))
        return logits


class Sequences(nn.Module):
    """An LSTM over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)
        self.lstm = nn.LSTM(8, 10, batch_first=True)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.lstm(self.conv(x).flatten(2).transpose(1, 2))[0][:, -1])
        return logits


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "vit_tiny":
        return load_model(ModelSpec(name, {"dim": 32, "depth": 2}), classes=5, image_shape=SHAPE)
    if name in ("resnet8", "mobilenet_v2"):
        return load_model(ModelSpec(name, {"width": 0.5}), classes=5, image_shape=SHAPE)
    return {"mixer": Mixer, "branches": Branches, "sequences": Sequences}[name]().eval()


def lost_by_cutting(model: nn.Module, couplings: Couplings, name: str) -> tuple[int, int]:
    """Parameters and MACs that really go with one unit."""
    kept = {name: torch.arange(couplings.named(name).width) > 0}
    done = cut(model, couplings, kept, torch.zeros(2, *SHAPE))
    assert not done.rejected
    params = count_params(model) - count_params(done.model)
    return params, count_macs(model, SHAPE) - count_macs(done.model, SHAPE)


@pytest.mark.parametrize("name", ["resnet8", "vit_tiny", "mixer", "branches", "sequences"])
def test_a_unit_costs_what_the_model_loses_when_it_is_cut(name: str) -> None:
    model = build(name)
    couplings = couple(model, torch.zeros(2, *SHAPE), result="auto")
    costs = channel_costs(model, couplings, SHAPE)
    found = {one.name: (costs.params[one.name], costs.macs[one.name]) for one in couplings.free}
    assert found
    assert found == {one: lost_by_cutting(model, couplings, one) for one in found}


def test_all_that_can_be_cut_at_once_adds_up_where_layers_are_shared_by_two() -> None:
    """The cost of a unit of a layer's inputs counts the outputs it still has."""
    model = build("mobilenet_v2")
    couplings = couple(model, torch.zeros(2, *SHAPE))
    costs = channel_costs(model, couplings, SHAPE)
    first, other = (one for one in couplings.free if one.name in ("stem.0", "blocks.1.project"))
    kept = {one.name: torch.arange(one.width) > 0 for one in (first, other)}
    small = cut(model, couplings, kept, torch.zeros(2, *SHAPE)).model
    apart = costs.macs[first.name] + costs.macs[other.name]
    assert count_macs(model, SHAPE) - count_macs(small, SHAPE) == apart


def test_weights_say_where_the_macs_are() -> None:
    model = build("resnet8")
    costs = channel_costs(model, couple(model, torch.zeros(2, *SHAPE)), SHAPE)
    assert costs.total == count_macs(model, SHAPE) == sum(costs.weights.values())
    assert costs.weights["linear.weight"] == 32 * 5
    attention = build("vit_tiny")
    costs = channel_costs(attention, couple(attention, torch.zeros(2, *SHAPE)), SHAPE)
    tokens, dim = 17, 32
    products = 2 * 2 * tokens * tokens * dim  # two blocks, queries with keys and answers with values
    assert costs.total - sum(costs.weights.values()) == products


def test_what_is_blocked_costs_what_its_layers_do() -> None:
    model = build("resnet8")
    couplings = couple(model, torch.zeros(2, *SHAPE), protect=["layer1.0.conv1"])
    costs = channel_costs(model, couplings, SHAPE)
    assert couplings.named("layer1.0.conv1").reason == "protected"
    assert costs.macs["layer1.0.conv1"] == 2 * 8 * 9 * 16 * 16
    assert costs.params["layer1.0.conv1"] == 2 * 8 * 9 + 2


def test_the_model_is_left_as_it_was() -> None:
    model = build("vit_tiny").train()
    before = copy.deepcopy(model.state_dict())
    channel_costs(model, couple(model, torch.zeros(2, *SHAPE), result="auto"), SHAPE)
    assert model.training and model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
