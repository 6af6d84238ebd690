import copy

import pytest
import torch

from kezuri.core.errors import CorruptArtifact, UsageError
from kezuri.quantization.portable import quantization_of, scheme_of, with_settings
from kezuri.quantization.ptq import PostTraining, calibrate_

from .nets import SIDE, noise, prepared, residual

X = noise(8, 3, SIDE, SIDE, seed=5)


@pytest.fixture(scope="module")
def settings():
    found = prepared(residual(), X[:2], spared=("second",), layer_bits={"first.0": 4}, ranges="learned")
    calibrate_(found, [(X,)], PostTraining())
    name, settings = quantization_of(found)
    assert name == "fake_quant"
    return settings


def test_the_same_network_comes_back(settings):
    found = with_settings(residual(), (X[:2],), settings)
    assert quantization_of(found)[1] == settings
    assert found.scheme.spared == ("second",) and found.scheme.layer_bits == {"first.0": 4}


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("scheme",), None),
        (("scheme",), [1]),
        (("scheme", "bits"), 99),
        (("scheme", "bits"), "8"),
        (("scheme", "bits"), True),
        (("scheme", "layer_bits"), ["first.0"]),
        (("scheme", "layer_bits"), {"first.0": [4]}),
        (("scheme", "layer_bits"), {"nowhere": 4}),
        (("scheme", "spared"), 5),
        (("scheme", "spared"), "second"),
        (("scheme", "spared"), [["second"]]),
        (("scheme", "per_channel"), "no"),
        (("scheme", "attention"), None),
        (("scheme", "ranges"), "wild"),
        (("scheme", "ranges"), ["fixed"]),
        (("scheme", "replaced"), ["relu"]),
        (("scheme", "replaced"), {"gelu": {}}),
        (("scheme", "unheard"), 1),
        (("on",), "all"),
        (("on",), [["x"]]),
        (("on",), ["quantizers.nowhere"]),
        (("learned",), None),
        (("learned",), [7]),
    ],
)
def test_settings_that_are_none_are_refused(settings, where, value):
    hostile = copy.deepcopy(settings)
    target = hostile
    for key in where[:-1]:
        target = target[key]
    target[where[-1]] = value
    with pytest.raises((CorruptArtifact, UsageError)):  # `read_model` makes one of both
        with_settings(residual(), (X[:2],), hostile)


def test_a_scheme_that_is_whole_is_read(settings):
    assert scheme_of(settings).ranges == "learned"


def test_learned_ranges_of_a_scheme_learn(settings):
    found = with_settings(residual(), (X[:2],), settings)
    assert all(isinstance(one.scale, torch.nn.Parameter) for one in found.activation_quantizers)
