import pytest
import torch
from torch import nn

from kezuri.core.errors import ModelError, UnknownName
from kezuri.model.zoo import zoo

# parameters for 10 classes; the literature gives 0.27, 0.46, 0.66 and 0.85 M for the ResNets
# (He et al., 2016, table 6), 15 M for VGG-16 on CIFAR (Li et al., 2017), 266,610 for LeNet-300-100
PARAMETERS = {
    "lenet300_100": 266_610,
    "lenet5": 61_706,
    "mobilenet_v1": 3_217_226,
    "mobilenet_v2": 2_236_682,
    "plain2": 268_698,
    "plain4": 280_314,
    "plain6": 204_794,
    "plain8": 360_954,
    "plain10": 545_658,
    "resnet8": 75_290,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "vgg16_bn": 14_987_210,
    "vit_tiny": 1_205_898,
}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def shape(name: str) -> tuple[int, int, int]:
    return (1, 28, 28) if name.startswith("lenet") else (3, 32, 32)


def test_every_model_has_a_known_size() -> None:
    assert set(zoo) == set(PARAMETERS)


@pytest.mark.parametrize("name", zoo)
def test_parameter_count(name: str) -> None:
    assert parameters(zoo[name](classes=10)) == PARAMETERS[name]


@pytest.mark.parametrize("name", zoo)
def test_answers_one_finite_logit_a_class(name: str) -> None:
    model = zoo[name](classes=7).eval()
    with torch.no_grad():
        answer = model(torch.randn(2, *shape(name), generator=torch.Generator().manual_seed(0)))
    assert answer.shape == (2, 7)
    assert answer.isfinite().all()


@pytest.mark.parametrize(("name", "published"), [("mobilenet_v1", 4_231_976), ("mobilenet_v2", 3_504_872)])
def test_mobilenets_with_1000_classes_have_the_published_size(name: str, published: int) -> None:
    assert parameters(zoo[name](classes=1000)) == published


def test_resnet_parameter_names_are_those_of_the_published_checkpoints() -> None:
    convolutions = {name for name, _ in zoo["resnet20"]().named_parameters() if "conv" in name}
    blocks = {f"layer{s}.{i}.conv{c}.weight" for s in (1, 2, 3) for i in range(3) for c in (1, 2)}
    assert convolutions == {"conv1.weight", *blocks}
    assert not [name for name in zoo["resnet20"]().state_dict() if "shortcut" in name]


def test_shortcut_a_passes_every_second_pixel_between_channels_of_zeros() -> None:
    shortcut = zoo["resnet8"]().layer2[0].shortcut
    x = torch.arange(16.0 * 16).reshape(1, 16, 4, 4) + 1
    y = shortcut(x)
    assert y.shape == (1, 32, 2, 2)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_shortcut_b_is_a_convolution() -> None:
    assert parameters(zoo["resnet20"](shortcut="B")) == 269_722 + 16 * 32 + 32 * 64 + 2 * 32 + 2 * 64


def test_a_wrong_shortcut_is_refused() -> None:
    with pytest.raises(ModelError, match=r"'A'.*'B'.*'C'"):
        zoo["resnet20"](shortcut="C")


@pytest.mark.parametrize("name", ["resnet20", "vgg16_bn", "mobilenet_v1", "mobilenet_v2"])
def test_width_scales_the_channels(name: str) -> None:
    whole, half = parameters(zoo[name]()), parameters(zoo[name](width=0.5))
    assert 0.2 < half / whole < 0.45


@pytest.mark.parametrize(("image_size", "first"), [(28, (6, 28)), (32, (6, 28))])
def test_lenet5_sees_28_pixels_after_its_first_convolution(image_size: int, first: tuple[int, int]) -> None:
    model = zoo["lenet5"](image_size=image_size)
    channels, side = first
    assert model.conv1(torch.zeros(1, 1, image_size, image_size)).shape == (1, channels, side, side)
    assert parameters(model) == 61_706


@pytest.mark.parametrize(
    "options", [{"name": "lenet5", "image_size": 12}, {"name": "vit_tiny", "image_size": 30}]
)
def test_images_that_do_not_fit_are_refused_by_size(options: dict[str, int | str]) -> None:
    with pytest.raises(ModelError, match=str(options["image_size"])):
        zoo[str(options.pop("name"))](**options)


def test_vit_with_the_settings_of_vit_lite_7_has_its_size() -> None:
    # ViT-Lite-7/4 (Hassani et al., 2021): 3.72 M with perceptrons twice as wide as a token
    narrow = sum(2 * 2 * 256 * 256 + 2 * 256 for _ in range(7))
    assert parameters(zoo["vit_tiny"](dim=256, depth=7, heads=4)) - narrow == pytest.approx(3.72e6, rel=0.01)


def test_vit_refuses_heads_that_do_not_divide() -> None:
    with pytest.raises(ModelError, match="dim=128 and heads=5"):
        zoo["vit_tiny"](heads=5)


def test_an_unknown_model_is_answered_with_what_there_is() -> None:
    with pytest.raises(UnknownName, match="did you mean 'resnet56'"):
        zoo["resnet556"]
