import pytest
import torch
from torch import nn

from kezuri.calibrate.collectors.input_norm import InputNorm
from kezuri.calibrate.run import Sample, collect
from kezuri.data import TensorPart
from kezuri.prune.criteria.wanda import Wanda
from kezuri.prune.evidence import Evidence


def learnt(model, images, batch_size=4):
    part = TensorPart(images, torch.zeros(len(images), dtype=torch.long), classes=2)
    found = collect(model, part, [InputNorm()], sample=Sample(batch_size=batch_size))
    return {name: parts.get("input_norm") for name, parts in found.items()}


@pytest.fixture
def images():
    return torch.randn(10, 4, 3, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch_size", [4, 5, 10])
def test_is_the_norm_over_positions_and_the_root_mean_square_over_images(images, batch_size):
    norm = learnt(nn.Conv2d(4, 2, 3), images, batch_size)["weight"]
    expected = (images.double().square().sum((0, 2, 3)) / 10).sqrt()
    torch.testing.assert_close(norm, expected.expand(2, 4))


def test_groups_read_their_own_inputs(images):
    sizes = torch.tensor([1.0, 2.0, 3.0, 4.0])
    flat = torch.ones(5, 4, 1, 1) * sizes.view(1, 4, 1, 1)
    assert learnt(nn.Conv2d(4, 4, 1, groups=2), flat)["weight"].tolist() == [[1, 2], [1, 2], [3, 4], [3, 4]]
    assert learnt(nn.Conv2d(4, 8, 1, groups=4), flat)["weight"].flatten().tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    transposed = learnt(nn.ConvTranspose2d(4, 6, 1, groups=2), flat)["weight"]
    assert transposed.tolist() == [[1, 2, 3, 4]] * 3


def test_linear_layers_have_their_channels_last(images):
    tokens = nn.Sequential(nn.Flatten(2), nn.Linear(9, 2))
    expected = (images.flatten(2).double().square().sum((0, 1)) / 10).sqrt()
    torch.testing.assert_close(learnt(tokens, images)["1.weight"], expected.expand(2, 9))


def test_all_uses_of_a_shared_layer_count(images):
    layer = nn.Conv2d(4, 4, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4).view(4, 4, 1, 1))
    once, twice = learnt(nn.Sequential(layer), images), learnt(nn.Sequential(layer, layer), images)
    torch.testing.assert_close(twice["0.weight"], once["0.weight"] * 2**0.5)


def test_wanda_finds_the_weights_that_hardly_matter_to_the_output(images):
    """With one output and uncorrelated inputs, the score squared is what the output's square loses."""
    images = images * torch.tensor([0.1, 1.0, 5.0, 0.5]).view(1, 4, 1, 1)
    layer = nn.Conv2d(4, 1, 1, bias=False)
    norm = learnt(layer, images)["weight"]
    scores = Wanda()(layer.weight.detach(), Evidence(input_norm=norm)).flatten()
    lost = []
    for channel in range(4):
        alone = images[:, channel] * layer.weight.detach()[0, channel]
        lost.append(float(alone.square().sum()) / 10)
    torch.testing.assert_close(scores.double().square(), torch.tensor(lost).double(), rtol=1e-4, atol=0)
