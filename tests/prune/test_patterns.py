import pytest

from kezuri.core.errors import RecipeError
from kezuri.prune.patterns import matching

NAMES = ["conv1.weight", "layer1.0.conv1.weight", "layer1.1.conv1.weight", "fc.weight"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("conv1", ["conv1.weight"]),
        ("conv1.weight", ["conv1.weight"]),
        ("layer1.*", ["layer1.0.conv1.weight", "layer1.1.conv1.weight"]),
        ("*conv1", NAMES[:3]),
        ("layer1.?.conv1", NAMES[1:3]),
    ],
)
def test_fits_layers_and_parameters(pattern, found):
    assert matching(pattern, NAMES) == found


def test_a_pattern_without_effect_is_a_mistake():
    with pytest.raises(RecipeError, match=r"'conv2' \(have: conv1, .*\); did you mean 'conv1'\?"):
        matching("conv2", NAMES)
