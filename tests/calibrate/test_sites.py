from torch import nn

from kezuri.calibrate.sites import scored_weights


def test_layers_with_outputs_first_each_weight_once():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 4, 3), nn.Linear(4, 4), nn.Linear(4, 4)
    )
    model[4].weight = model[3].weight
    assert list(scored_weights(model)) == ["0.weight", "3.weight"]


def test_a_model_that_is_one_layer():
    assert list(scored_weights(nn.Linear(2, 3))) == ["weight"]
