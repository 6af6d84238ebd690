import pytest
from torch import nn

from kezuri.measure.sparsity import sparsity


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
    assert [m.conditions["of"] for m in (weights, biases, everything)] == [
        "weights",
        "weights and biases",
        "parameters",
    ]


def test_shared_weights_count_once() -> None:
    layer = nn.Linear(3, 3)
    assert sparsity(nn.Sequential(layer, layer))[0].samples == 9


@pytest.mark.parametrize("model", [nn.ReLU(), nn.BatchNorm2d(3)])
def test_a_model_without_prunable_weights_is_dense(model: nn.Module) -> None:
    assert sparsity(model)[0].value == 0
