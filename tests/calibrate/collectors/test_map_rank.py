import pytest
import torch
from torch import nn

from kezuri.calibrate.collectors.map_rank import MapRank, ranks
from kezuri.calibrate.run import Sample, collect
from kezuri.core.errors import TrainingDiverged
from kezuri.core.seeds import derive
from kezuri.data import TensorPart


def learnt(model, shown, batch_size=4, **settings):
    part = TensorPart(shown, torch.zeros(len(shown), dtype=torch.long), classes=2)
    found = collect(model, part, [MapRank(**settings)], sample=Sample(batch_size=batch_size))
    return {name: parts["map_rank"].tolist() for name, parts in found.items()}


def passing(kind, channels, **settings):
    """A layer that hands its input on."""
    layer = kind(channels, channels, 1, bias=False, **settings)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(channels).view(channels, channels, *[1] * (layer.weight.dim() - 2)))
    return layer


def test_ranks_of_maps_known_by_heart():
    maps = torch.stack([torch.eye(4), torch.ones(4, 4), torch.zeros(4, 4), -torch.eye(4)])
    assert ranks(maps).tolist() == [4, 1, 0, 0]
    assert ranks(torch.stack([torch.eye(4), torch.ones(4, 4)]).reshape(2, 2, 2, 4)).tolist() == [4, 1]
    assert ranks(maps.half()).tolist() == [4, 1, 0, 0]


def test_without_two_axes_it_is_how_often_the_channel_is_on():
    assert ranks(torch.tensor([[1.0, -1.0, 2.0, 3.0], [0.0, 0.0, 0.0, 1.0]])).tolist() == [0.75, 0.25]
    assert ranks(torch.tensor([2.0, -1.0])).tolist() == [1, 0]


@pytest.mark.parametrize("batch_size", [2, 5, 10])
def test_is_averaged_over_images_whatever_the_batches(batch_size):
    half = torch.cat([torch.eye(3).expand(5, 1, 3, 3), torch.ones(5, 1, 3, 3)])
    images = torch.cat([half, torch.eye(3).expand(10, 1, 3, 3)], dim=1)
    assert learnt(passing(nn.Conv2d, 2), images, batch_size) == {"weight": [2, 3]}


@pytest.mark.parametrize("count", [1, 4, 5, 8])
def test_looks_at_the_first_images_only(count):
    images = torch.stack([torch.eye(8) * (torch.arange(8) < rank) for rank in range(8)]).view(8, 1, 8, 8)
    part = TensorPart(images, torch.zeros(8, dtype=torch.long), classes=2)
    order = torch.cat([batch.images for batch in part.batches(4, seed=derive(0, "calibrate"))])
    expected = order[:count].sum((1, 2, 3)).mean()
    assert learnt(passing(nn.Conv2d, 1), images, images=count)["weight"] == [pytest.approx(float(expected))]


def test_is_taken_behind_the_norm_that_reads_the_layer():
    norm = nn.BatchNorm2d(2)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -1.0]))  # the second channel's map is nowhere above zero
        norm.running_var.fill_(1 - norm.eps)
    model = nn.Sequential(passing(nn.Conv2d, 2), norm, nn.ReLU(inplace=True))
    images = torch.eye(3).expand(6, 2, 3, 3).contiguous()
    assert learnt(model, images) == {"0.weight": [3, 0]}
    assert learnt(model[:1], images) == {"0.weight": [3, 3]}


def test_linear_layers_on_tokens_count_every_token():
    model = nn.Sequential(nn.Flatten(2), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]]))
    images = torch.ones(4, 3, 2, 2)
    images[:, 0] = -1
    assert learnt(model, images)["1.weight"] == pytest.approx([2 / 3, 1 / 3])


def test_volumes_make_matrices_of_all_but_the_last_axis():
    images = torch.eye(4).view(1, 1, 2, 2, 4).repeat(3, 1, 1, 1, 1)
    assert learnt(passing(nn.Conv3d, 1), images)["weight"] == [4]


def test_maps_that_are_not_finite_are_named():
    with pytest.raises(TrainingDiverged, match=r"feature maps of 0\.weight"):
        learnt(nn.Sequential(passing(nn.Conv2d, 1)), torch.full((2, 1, 3, 3), torch.inf))
