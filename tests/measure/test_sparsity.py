import pytest
import torch
from torch import nn

from kezuri.measure.sparsity import sparsity
from kezuri.model.program import as_program
from kezuri.quantization.network import with_quantizers
from kezuri.quantization.scheme import Scheme

ALL = ["weights", "weights and biases", "parameters"]


def test_the_three_denominators() -> None:
    # 2*3*9 + 2 convolution, 2 + 2 normalisation (weight one, bias zero), 4*5 + 5 linear
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Linear(4, 5))
    for layer in (model[0], model[2]):
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
    model[0].weight.data[0] = 0
    weights, biases, everything = sparsity(model)
    assert (weights.value, weights.samples) == (27 / 74, 74)
    assert (biases.value, biases.samples) == ((27 + 7) / 81, 81)
    assert (everything.value, everything.samples) == ((27 + 7 + 2) / 85, 85)
    assert [m.conditions["of"] for m in (weights, biases, everything)] == ALL


def test_shared_weights_count_once() -> None:
    layer = nn.Linear(3, 3)
    assert sparsity(nn.Sequential(layer, layer))[0].samples == 9


@pytest.mark.parametrize(
    ("model", "said"), [(nn.ReLU(), []), (nn.BatchNorm2d(3), ["parameters"]), (nn.Linear(3, 3), ALL)]
)
def test_nothing_is_said_of_what_a_model_has_not(model: nn.Module, said: list[str]) -> None:
    assert [m.conditions["of"] for m in sparsity(model)] == said


@pytest.fixture
def masked() -> nn.Module:
    """A small network with zeros in its weights and biases."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ConvTranspose2d(4, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 36, 3),
    )
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.data.view(-1)[::2] = 0
        elif name.endswith("bias"):
            parameter.data.zero_()
    return model


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_program_has_the_zeros_of_the_model_it_was(masked: nn.Module, per_channel: bool) -> None:
    inputs = (torch.zeros(2, 1, 6, 6),)
    program = as_program(masked, inputs)
    assert sparsity(program) == sparsity(masked)
    quantized = with_quantizers(masked, inputs, Scheme(per_channel=per_channel)).network
    assert sparsity(quantized)[:2] == sparsity(masked)[:2]
    assert sparsity(quantized)[0].value == 0.5
