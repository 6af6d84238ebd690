import pickle
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kezuri.core.errors import DataError, ModelError, RecipeError, UnknownName
from kezuri.model.load import ModelSpec, check_fits, load_model, load_weights_
from kezuri.model.modes import evaluating

SHAPE = (1, 28, 28)

NETS = """
from dataclasses import dataclass

from torch import nn

@dataclass
class Plan:
    hidden: int

def small(num_classes, in_channels, hidden=16, channels=(4, 8)):
    assert channels == (4, 8)
    plan = Plan(hidden)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(in_channels * 784, plan.hidden), nn.ReLU(), nn.Linear(hidden, num_classes)
    )

def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 3))

def hungry(classes, depth):
    return nn.Linear(depth, classes)

def open_ended(classes, **options):
    return nn.Linear(options["inputs"], classes)

def broken(classes):
    return nn.Conv2d(1, 8, 3, groups=3)

def number(classes):
    return classes
"""


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("own") / "nets.py"
    path.write_text(NETS)
    return str(path)


def load(ref: str, classes: int = 10, **options: object) -> nn.Module:
    return load_model(ModelSpec(ref, options), classes=classes, image_shape=SHAPE)


def test_the_zoo_is_told_classes_channels_and_size() -> None:
    model = load("lenet300_100", 7)
    assert (model.fc1.in_features, model.fc3.out_features) == (784, 7)
    assert load("resnet8").conv1.in_channels == 1


def test_options_reach_the_builder_and_win() -> None:
    assert load("resnet8", width=0.5).conv1.out_channels == 8
    assert load("resnet8", channels=3).conv1.in_channels == 3


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (load_model("lenet5", classes=10, image_shape=SHAPE, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.fc1.weight, same.fc1.weight)
    assert not torch.equal(one.fc1.weight, other.fc1.weight)


def test_a_function_in_a_file(nets: str) -> None:
    model = load(f"{nets}:small", 4, hidden=5)
    assert (model[1].in_features, model[1].out_features, model[3].out_features) == (784, 5, 4)


def test_a_file_sees_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "kezuri_neighbour.py").write_text("from torch.nn import Linear as Layer\n")
    (tmp_path / "mine.py").write_text(
        "from kezuri_neighbour import Layer\ndef net(classes): return Layer(3, classes)\n"
    )
    assert load(f"{tmp_path}/mine.py:net").out_features == 10


def test_a_function_of_a_package() -> None:
    assert load("kezuri.model.zoo.lenet:lenet5", 3).fc3.out_features == 3


def test_a_function_without_parameters_is_called_without(nets: str) -> None:
    assert load(f"{nets}:fixed")[1].out_features == 3


def test_options_of_an_open_ended_function_are_passed_on(nets: str) -> None:
    assert load(f"{nets}:open_ended", inputs=6).in_features == 6


@pytest.mark.parametrize(
    ("ref", "error", "told"),
    [
        ("resnet556", UnknownName, r"did you mean 'resnet56'\?.*FILE\.py:FUNCTION"),
        ("nosuch.package:net", ModelError, "nosuch"),
        ("nosuch.py:net", ModelError, r"no file nosuch\.py"),
        ("{nets}:smal", UnknownName, r"have: Plan, .*did you mean 'small'"),
        ("{nets}:hungry", RecipeError, "'depth'"),
        ("{nets}:broken", ModelError, r"nets\.py:27: ValueError: in_channels must be divisible"),
        ("{nets}:number", ModelError, "gives an object of type int"),
    ],
)
def test_mistakes_in_a_reference_are_explained(
    nets: str, ref: str, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        load(ref.format(nets=nets))


def test_an_unknown_option_is_answered_with_those_there_are() -> None:
    with pytest.raises(RecipeError, match=r"no option of resnet8 named 'widht'.*did you mean 'width'"):
        load("resnet8", widht=2)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("x = 1\nimport nosuchthing\n", r"mine\.py:2: ModuleNotFoundError: No module named 'nosuchthing'"),
        ("def net(:\n", r"mine\.py:1: SyntaxError"),
        ("import torch\n\ndef f():\n    torch.zeros(-1)\n\nf()\n", r"mine\.py:4: RuntimeError"),
        ("import sys\nsys.exit(3)\n", r"mine\.py:2: SystemExit"),
    ],
)
def test_an_error_in_your_file_names_its_line(tmp_path: Path, source: str, told: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(source)
    with pytest.raises(ModelError, match=told):
        load(f"{path}:net")


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_an_absent_extra_says_what_to_install(package: str) -> None:
    if find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    with pytest.raises(ModelError, match=rf"pip install 'kezuri\[{package}\]'"):
        load(f"{package}:resnet18")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", "nested.pt"])
def test_weights_are_read(tmp_path: Path, suffix: str) -> None:
    source = load_model("lenet300_100", classes=10, image_shape=SHAPE, seed=3)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(source.state_dict(), path)
    elif suffix == ".pt":
        torch.save(source.state_dict(), path)
    else:
        torch.save(
            {"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}, "epoch": 3}, path
        )
    model = load_model("lenet300_100", classes=10, image_shape=SHAPE, weights=str(path))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in source.state_dict().items())


def test_weights_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    state = load("lenet300_100", 5).state_dict()
    del state["fc1.bias"]
    save_file({**state, "extra": torch.zeros(2)}, tmp_path / "w.safetensors")
    told = (
        r"1 missing .*: fc1\.bias; 1 not in the model: extra; 2 of another shape: fc3\.weight is \(5, 100\)"
    )
    with pytest.raises(ModelError, match=told):
        load_weights_(load("lenet300_100"), tmp_path / "w.safetensors")


def test_a_pickled_module_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save(load("lenet5"), tmp_path / "module.pt")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("module.pt", "evil.pt"):
        with pytest.raises(DataError, match="would run code"):
            load_weights_(load("lenet5"), tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_weights_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    model = load("lenet300_100")
    (tmp_path / "torn.safetensors").write_bytes(b"1234")
    torch.save([1, 2], tmp_path / "list.pt")
    nan = {**model.state_dict(), "fc1.bias": torch.full((300,), torch.nan)}
    save_file(nan, tmp_path / "nan.safetensors")
    told = {
        "torn.safetensors": "not a safetensors file",
        "list.pt": "not hold a state dict",
        "nan.safetensors": r"not finite, in fc1\.bias",
        "absent.pt": "no file",
    }
    for name, reason in told.items():
        with pytest.raises(DataError, match=reason):
            load_weights_(model, tmp_path / name)


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


class NotANumber(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :10] / 0


@pytest.mark.parametrize("ref", ["lenet5", "resnet8", "mobilenet_v2", "vit_tiny"])
def test_a_model_that_fits_passes(ref: str) -> None:
    check_fits(load(ref), SHAPE, 10)


def test_a_misfit_is_explained() -> None:
    with pytest.raises(ModelError, match="takes 3 channels: build it for 1"):
        check_fits(load("resnet8", channels=3), SHAPE, 10)
    with pytest.raises(ModelError, match=r"images of 3x28x28.*too small"):
        check_fits(load_model("vgg16_bn", classes=10, image_shape=(3, 28, 28)), (3, 28, 28), 10)
    with pytest.raises(ModelError, match=r"answers \(2, 5\), but the data has 10 classes"):
        check_fits(load("lenet5", 5), SHAPE, 10)
    with pytest.raises(ModelError, match="a tuple; return one tensor"):
        check_fits(Pair(), SHAPE, 10)
    with pytest.raises(ModelError, match="not finite"):
        check_fits(NotANumber(), SHAPE, 10)


def test_checking_leaves_modes_and_statistics_as_they_were() -> None:
    model = load("resnet8").train()
    model.layer1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_fits(model, SHAPE, 10)
    assert model.training
    assert not model.layer1.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_evaluating_restores_modes_after_an_error() -> None:
    model = load("lenet5")
    with pytest.raises(RuntimeError), evaluating(model):
        assert not model.training
        raise RuntimeError
    assert model.training
