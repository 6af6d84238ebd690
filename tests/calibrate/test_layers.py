import gc

import torch
from torch import nn

from kezuri.calibrate.layers import hear_outputs, layers_of
from kezuri.calibrate.sites import find_sites


class Crossed(nn.Module):
    """The norm reads the second layer, and a sum that looks like the first layer's output."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.held = None

    def forward(self, x):
        inner = self.first(x)
        return self.norm(self.second(inner)) + self.norm(inner + 0)


def test_a_norm_is_behind_the_layer_whose_very_output_it_reads():
    model, heard = Crossed(), []
    sites = find_sites(model)
    handles = hear_outputs(
        model,
        sites,
        layer=lambda name, _module, _output: heard.append(("layer", name)),
        norm=lambda name, _module, _output: heard.append(("norm", name)),
    )
    model(torch.zeros(2, 2, 4, 4))
    assert heard == [("layer", "first.weight"), ("layer", "second.weight"), ("norm", "second.weight")]
    for handle in handles:
        handle.remove()
    model(torch.zeros(2, 2, 4, 4))
    assert len(heard) == 3


def test_outputs_are_not_kept_alive():
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).eval()
    hear_outputs(model, find_sites(model))
    with torch.no_grad():
        model(torch.zeros(2, 2, 64, 64))
    gc.collect()
    shape = (2, 3, 64, 64)
    alive = [o for o in gc.get_objects() if type(o) is torch.Tensor and tuple(o.shape) == shape]
    assert not alive


def test_every_module_that_uses_a_weight_is_found():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Conv2d(1, 1, 1))
    model[1].weight = model[0].weight
    found = list(layers_of(model, find_sites(model)))
    assert found == [("0.weight", model[0]), ("0.weight", model[1]), ("2.weight", model[2])]
