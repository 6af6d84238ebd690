import torch
from torch import nn

from kezuri.calibrate.sites import find_sites, scored_weights


def test_layers_with_outputs_first_each_weight_once():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 4, 3), nn.Linear(4, 4), nn.Linear(4, 4)
    )
    model[4].weight = model[3].weight
    assert list(scored_weights(model)) == ["0.weight", "3.weight"]


def test_a_model_that_is_one_layer():
    assert list(scored_weights(nn.Linear(2, 3))) == ["weight"]


def test_sites_know_where_their_outputs_are():
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.Linear(6, 5), nn.GRU(5, 4))
    sites = find_sites(model, {"2.weight_ih_l0": 0, "1.weight": 1, "gone": 0})
    assert {name: site.dim for name, site in sites.items()} == {
        "0.weight": 1,
        "1.weight": 0,
        "2.weight_ih_l0": 0,
    }
    transposed = sites["0.weight"]
    assert transposed.outputs == 3 and transposed.outputs_first(transposed.weight).shape == (3, 4, 3, 3)
    assert transposed.folded(torch.arange(6)).tolist() == [[0, 1, 2], [3, 4, 5]]
