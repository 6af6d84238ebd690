import torch
from torch import nn

from kezuri.calibrate.collectors.norm_scale import NormScale
from kezuri.calibrate.run import collect
from kezuri.data import TensorPart


class Shuffled(nn.Module):
    """Norms are defined before and apart from the layers they follow, and one layer feeds two of them."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(2))
        self.plain = nn.BatchNorm2d(4, affine=False)
        self.last, self.first, self.middle = (nn.Conv2d(c, 4, 1) for c in (4, 3, 4))

    def forward(self, x):
        x = self.norms[1](self.first(x))
        x = self.norms[0](self.middle(x).relu())  # something lies between, so the scale is not the layer's
        return self.plain(self.last(x)).mean((2, 3))


def part():
    return TensorPart(torch.randn(4, 3, 5, 5), torch.zeros(4, dtype=torch.long), classes=4)


def test_finds_the_norm_that_reads_the_layer_by_running():
    model = Shuffled()
    with torch.no_grad():
        model.norms[1].weight.copy_(torch.tensor([1.0, -2.0, 0.0, 0.5]))
    learnt = collect(model, part(), [NormScale()])
    assert learnt["first.weight"]["norm_scale"].tolist() == [1, 2, 0, 0.5]
    assert learnt["middle.weight"] == {}
    assert learnt["last.weight"] == {}


def test_linear_layers_too():
    model = nn.Sequential(nn.Flatten(), nn.Linear(75, 4), nn.BatchNorm1d(4))
    assert collect(model, part(), [NormScale()])["1.weight"]["norm_scale"].tolist() == [1] * 4


def test_what_was_learnt_does_not_change_with_the_model():
    model = nn.Sequential(nn.Conv2d(3, 4, 5), nn.BatchNorm2d(4), nn.Flatten())
    learnt = collect(model, part(), [NormScale()])["0.weight"]["norm_scale"]
    with torch.no_grad():
        model[1].weight.zero_()
    assert learnt.tolist() == [1] * 4
