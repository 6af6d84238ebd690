import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kezuri.artifact.inspection import Inspection, Touch
from kezuri.core.errors import ModelError, UsageError
from kezuri.measure.channel_latency import ChannelTimer
from kezuri.measure.macs import count_macs, count_params
from kezuri.model.coupling import couple
from kezuri.model.load import ModelSpec, load_model
from kezuri.recipe.inspection import inspect_model

SHAPE = (3, 16, 16)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return load_model(ModelSpec("resnet8", {"width": 0.5}), classes=10, image_shape=SHAPE)


@pytest.fixture(scope="module")
def inspected(resnet: nn.Module) -> Inspection:
    return inspect_model(resnet, SHAPE, name="small")


def test_every_coupling_and_layer_is_there(resnet: nn.Module, inspected: Inspection) -> None:
    couplings = couple(resnet, torch.zeros(2, *SHAPE), result="auto")
    assert [(one.name, one.width) for one in inspected.couplings] == [(c.name, c.width) for c in couplings]
    convolutions = [name for name, part in resnet.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert [layer.name for layer in inspected.layers] == convolutions
    assert (inspected.params, inspected.macs) == (count_params(resnet), count_macs(resnet, SHAPE))
    assert sum(layer.macs for layer in inspected.layers) == inspected.macs
    assert (inspected.latency, inspected.timed) == (None, "")


def test_a_coupling_says_who_writes_and_reads_it_and_why_it_must_stay(inspected: Inspection) -> None:
    first, stem, inner = inspected.couplings[:3]
    assert (first.state, first.reason, first.shared) == ("free", None, True)
    assert [touch.layer for touch in first.writes][:2] == ["conv1", "layer1.0.conv2"]
    assert (stem.state, stem.reason, stem.writes) == ("blocked", "input", ())
    assert (inner.writes, inner.reads) == ((Touch("layer1.0.conv1", 8),), (Touch("layer1.0.conv2", 8),))
    assert (inner.shared, inner.params) == (False, 2 * 8 * 9 + 2)
    assert inspected.couplings[-1].reason == "graph output"
    conv = inspected.layers[0]
    assert (conv.kind, conv.kernel, conv.inputs, conv.outputs, conv.params) == ("Conv2d", (3, 3), 3, 8, 216)


def test_what_is_protected_says_so(resnet: nn.Module) -> None:
    found = inspect_model(resnet, SHAPE, protect=["layer1.*"])
    assert {one.name for one in found.couplings if one.reason == "protected"} == {"conv1", "layer1.0.conv1"}
    with pytest.raises(UsageError, match="layer1"):
        inspect_model(resnet, SHAPE, protect=["layer7.*"])


def test_heads_that_only_a_program_can_lose_are_a_state_of_their_own() -> None:
    model = load_model(ModelSpec("vit_tiny", {"dim": 32, "depth": 1}), classes=4, image_shape=SHAPE)
    found = inspect_model(model, SHAPE, timer=ChannelTimer(budget_seconds=600))
    (heads,) = found.of("program")
    assert (heads.width, heads.channels) == (4, 32)
    assert heads.reason is not None and "literal size" in heads.reason
    assert heads.latency is not None and heads.latency.conditions["removed"] == 2
    assert all((one.latency is None) == (one.state == "blocked") for one in found.couplings)
    assert "ONNX Runtime, 1 thread" in found.timed


def test_everything_is_plain_data(inspected: Inspection) -> None:
    plain = json.loads(json.dumps(inspected.to_json()))
    assert plain["format"] == 1 and plain["image_shape"] == [3, 16, 16]
    assert [one["name"] for one in plain["couplings"]] == [one.name for one in inspected.couplings]
    assert plain["couplings"][2]["reads"] == [{"layer": "layer1.0.conv2", "channels": 8}]


def test_parts_that_are_no_plain_layers() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(3, 8, 2, 2, groups=1)
            self.loose = nn.Parameter(torch.randn(12, 8))
            self.lstm = nn.LSTM(12, 6, batch_first=True)
            self.head = nn.Linear(6, 3)
            self.unused = nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(F.linear(self.up(x).flatten(2).transpose(1, 2)[:, :4], self.loose))
            logits: Tensor = self.head(self.lstm(x)[0][:, -1])
            return logits

    found = inspect_model(Odd().eval(), (3, 4, 4))
    layers = {layer.name: layer for layer in found.layers}
    assert (layers["up"].kind, layers["up"].inputs, layers["up"].outputs) == ("ConvTranspose2d", 3, 8)
    assert (layers["loose"].inputs, layers["loose"].outputs, layers["loose"].params) == (8, 12, 96)
    assert layers["lstm.weight_ih_l0"].kind == "LSTM"
    assert layers["unused"].reason is not None and layers["unused"].params == 30
    names = {touch.layer for one in found.couplings for touch in (*one.writes, *one.reads)}
    assert names == set(layers) - {"unused"}


def test_a_model_that_cannot_be_followed_is_an_error(resnet: nn.Module) -> None:
    with pytest.raises(ModelError, match="does not accept an input of shape"):
        inspect_model(resnet, (1, 16, 16))
