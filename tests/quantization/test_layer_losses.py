"""What each layer loses alone, and what it costs."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kezuri.core.errors import UsageError
from kezuri.quantization.layer_losses import LayerCosts, magnitude_mask, measure_layers
from kezuri.quantization.network import with_quantizers
from kezuri.quantization.ptq import PostTraining, fit_weight_
from kezuri.quantization.scheme import Scheme
from kezuri.quantization.sensitivity import Option


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5)
        ).eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(12, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def costs(model, images):
    return LayerCosts.of(model, (images[:2],), Scheme())


def test_bytes_and_macs_are_those_of_a_packed_file(costs):
    assert [*costs.sites] == ["0", "4"]
    assert costs.whole.size == 4 * (216 + 8 + 640 + 5)  # the norm leaves one bias for each output
    assert costs.fixed.size == 4 * (8 + 5) and costs.fixed.macs == 0
    assert costs.whole.macs == 216 * 16 + 640
    assert costs.cost("0", Option(3)).size == 216 * 3 / 8 + 4 * 8
    assert costs.cost("4", Option(8, 0.5)).size == (320 * 8 + 640) / 8 + 4 * 5  # and a bit to say which
    assert costs.cost("4", Option(2, 0.25)).size == 640 * 2 / 8 + 4 * 5  # no less with zeros left out
    assert costs.cost("4", Option(8, 0.5)).macs == 320 and costs.cost("4", Option(8)).latency is None


def test_zeros_that_are_there_already_count(model, images):
    thin = nn.Sequential(*model[:4], nn.Linear(128, 5)).eval()
    with torch.no_grad():
        thin[4].weight[:, 32:] = 0
    costs = LayerCosts.of(thin, (images[:2],), Scheme(per_channel=False))
    assert costs.cost("4", Option(8)).size == (160 * 8 + 640) / 8 + 4
    assert costs.cost("4", Option(8, 0.5)).macs == costs.cost("4", Option(8)).macs == 160


def test_the_smallest_weights_go():
    weight = torch.tensor([[0.5, -0.1, 0.1], [-2.0, 0.3, 0.0]])
    assert magnitude_mask(weight, 0.5).tolist() == [[True, False, False], [True, True, False]]
    assert magnitude_mask(weight, 0.34).tolist() == [[True, False, True], [True, True, False]]
    assert magnitude_mask(weight, 0.0).all()


def test_the_loss_is_that_of_one_layer_rounded_alone(costs, model, images):
    batches = [(images[:8],), (images[8:],)]
    options = {"0": [Option(2)], "4": [Option(3), Option(32, 0.5)]}
    table = measure_layers(costs, batches, PostTraining(), options=options)
    prepared = with_quantizers(model, (images[:2],), Scheme(layer_bits={"4": 3}))
    fit_weight_(prepared, prepared.sites[1], PostTraining().weight_observer)
    with torch.no_grad():
        plain, rounded = model(images), prepared.network.eval()(images)
    kl = F.kl_div(rounded.log_softmax(1), plain.log_softmax(1), reduction="batchmean", log_target=True)
    assert table.entry("4", Option(3)).loss == pytest.approx(float(kl), rel=1e-4)
    assert table.base_loss == 0 and all(entry.loss > 0 for rows in table.layers.values() for entry in rows)
    labels = torch.arange(12) % 5
    told = measure_layers(costs, batches, PostTraining(), options=options, labels=labels)
    assert told.base_loss == pytest.approx(float(F.cross_entropy(plain, labels)))
    grown = float(F.cross_entropy(rounded, labels)) - told.base_loss
    assert told.entry("4", Option(3)).loss == pytest.approx(grown, abs=1e-5)
    assert measure_layers(costs, batches, PostTraining(), options=options) == table  # nothing was left behind


def test_answers_that_are_no_logits_are_compared_by_their_squares(images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    costs = LayerCosts.of(model, (images[:2],), Scheme())
    options = {"0": [Option(4)], "2": [Option(8), Option(2)]}
    table = measure_layers(costs, [(images,)], PostTraining(), options=options)
    assert table.about["loss"] == "mse"
    assert 0 < table.entry("2", Option(8)).loss < table.entry("2", Option(2)).loss < math.inf
    with pytest.raises(UsageError, match="labels are one number for each of 12 images"):
        measure_layers(costs, [(images,)], PostTraining(), options=options, labels=torch.zeros(12).long())


def test_the_journal_of_another_model_is_refused(costs, model, images, tmp_path):
    def measure(costs, images):
        measure_layers(
            costs, [(images,)], PostTraining(), options={"4": [Option(4)]}, journal=tmp_path / "table.json"
        )

    measure(costs, images)
    measure(costs, images)
    with pytest.raises(UsageError, match="was measured on"):
        measure(costs, images + 1)
    other = nn.Sequential(*model[:4], nn.Linear(128, 5)).eval()
    with pytest.raises(UsageError, match="was measured on"):
        measure(LayerCosts.of(other, (images[:2],), Scheme()), images)
