from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kezuri.core.errors import RecipeError
from kezuri.prune.allocation import Erk, Given, Uniform, erk_densities
from kezuri.prune.granularity import Channel, Weight


def resnet50():
    """Shapes of the 54 weights of ResNet-50 on ImageNet, conv1 to fc."""
    shapes = {"conv1": (64, 3, 7, 7)}
    inputs = 64
    for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)], start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            shapes[f"{name}.conv1"] = (width, inputs, 1, 1)
            shapes[f"{name}.conv2"] = (width, width, 3, 3)
            shapes[f"{name}.conv3"] = (4 * width, width, 1, 1)
            if block == 0:
                shapes[f"{name}.downsample"] = (4 * width, inputs, 1, 1)
            inputs = 4 * width
    return {**shapes, "fc": (1000, 2048)}


def epsilon(densities, name):
    shape = resnet50()[name]
    return densities[name] * prod(shape) / sum(shape)


def test_erk_gives_the_published_table_of_resnet50():
    shapes = resnet50()
    assert len(shapes) == 54
    densities = erk_densities(shapes, 0.9)
    # RigL's code rounds the counts of each layer before it solves, which gives 48.787.
    assert epsilon(densities, "fc") == pytest.approx(48.787, abs=1e-3)
    assert {name for name, density in densities.items() if density == 1} == {"layer1.0.conv1"}
    sparsity = {name: round(1 - density, 3) for name, density in densities.items()}
    assert sparsity["conv1"] == 0.580
    assert sparsity["layer1.0.conv2"] == 0.823
    assert sparsity["layer4.1.conv2"] == 0.979
    assert sparsity["fc"] == 0.927


def test_erk_makes_more_layers_dense_when_less_has_to_go():
    densities = erk_densities(resnet50(), 0.8)
    assert sum(density == 1 for density in densities.values()) == 8
    assert round(1 - densities["conv1"], 3) == 0.143
    assert all(density < 1 for density in erk_densities(resnet50(), 0.95).values())


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 64), st.integers(1, 64), st.integers(1, 5)), min_size=1, max_size=12),
    st.floats(0, 0.99),
)
def test_erk_adds_up_and_no_layer_is_more_than_dense(layers, sparsity):
    shapes = {str(i): (out, ins, k, k) for i, (out, ins, k) in enumerate(layers)}
    densities = erk_densities(shapes, sparsity)
    assert all(0 <= density <= 1 for density in densities.values())
    total = sum(map(prod, shapes.values()))
    kept = sum(densities[name] * prod(shape) for name, shape in shapes.items())
    assert kept == pytest.approx((1 - sparsity) * total, rel=1e-6, abs=1e-6)


@pytest.fixture
def groups():
    return Weight().groups({"conv1.weight": torch.ones(4, 3), "layer1.0.weight": torch.ones(8, 4)}, None)


def test_uniform_is_the_same_for_all(groups):
    assert Uniform()(groups, 0.3) == {"conv1.weight": 0.3, "layer1.0.weight": 0.3}


def test_given_takes_the_first_pattern_that_fits_and_the_rest_what_is_asked(groups):
    assert Given({"conv1": 0.1})(groups, 0.5) == {"conv1.weight": 0.1, "layer1.0.weight": 0.5}
    assert Given({"layer1.*": 0.2, "*": 0.4})(groups, 0.5) == {"conv1.weight": 0.4, "layer1.0.weight": 0.2}


def test_given_refuses_a_pattern_without_effect_and_a_sparsity_out_of_range(groups):
    with pytest.raises(RecipeError, match=r"no prunable layer fits 'conv9'.*did you mean 'conv1'"):
        Given({"conv9": 0.1})(groups, 0.5)
    with pytest.raises(RecipeError, match=r"'conv1' must be in \[0, 1\), got 1"):
        Given({"conv1": 1.0})


def test_erk_refuses_channels_that_span_layers(residual, couplings):
    with pytest.raises(RecipeError, match="coupled channels span several"):
        Erk()(Channel().groups(dict(residual.named_parameters()), couplings), 0.5)
