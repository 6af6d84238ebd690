"""The user's own model files: what fails in them is said with their file and line."""

import re

import pytest

NETS = """
import sys
import torch
from torch import nn

def net(classes):
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(512, classes))

def linear(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(144, classes))

def five(classes):
    return 5

def raising(classes):
    raise RuntimeError("boom")  # line 16

def leaving(classes):
    sys.exit(7)

def ten():
    return net(10)

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.inner = net(classes)

class Nan(Net):
    def forward(self, x):
        return self.inner(x) * float("nan")

class Pair(Net):
    def forward(self, x):
        return self.inner(x), 1

class Broken(Net):
    def forward(self, x):
        raise ValueError("bad forward")  # line 39

class BrokenInTraining(Net):
    def forward(self, x):
        if self.training:
            raise ValueError("bad training")  # line 44
        return self.inner(x)

class Deciding(Net):
    def forward(self, x):
        if x.sum() > 1e9:  # line 49
            return -self.inner(x)
        return self.inner(x)
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nett", "no function in nets.py named 'nett'.*did you mean 'net'"),
        ("five", "type int, a torch.nn.Module is needed"),
        ("raising", r"nets.py:16: RuntimeError: boom"),
        ("leaving", r"nets.py:19: SystemExit: 7"),
        ("ten", r"answers \(2, 10\), but the data has 4 classes"),
        ("Nan", "not finite"),
        ("Pair", r"a tuple; return one tensor of logits, \(images, 4\)"),
        ("Broken", r"ValueError: bad forward at .*nets.py:39"),
        ("BrokenInTraining", r"your code failed at .*nets.py:44: ValueError: bad training"),
        ("Deciding", r"torch.export cannot follow the model at nets.py:49"),
        ("linear", r"no channel of nets.py:linear may be cut: 1 \(graph output\)"),
    ],
)
def test_a_model_that_cannot_be_used(kezuri, recipe, tmp_path, name, message):
    (tmp_path / "nets.py").write_text(NETS)
    code, _, said = kezuri("check", recipe, "--trace", "model.options={}", f"model.use=nets.py:{name}")
    assert code == 2
    assert re.search(message, said), said
    assert len(said.splitlines()) == 1


def test_a_mistake_in_the_file_is_found_before_any_training(kezuri, recipe, tmp_path):
    (tmp_path / "nets.py").write_text("def net(classes):\n    return (\n")
    code, said, error = kezuri("run", recipe, "model.options={}", "model.use=nets.py:net")
    assert code == 2 and "nets.py:2: SyntaxError" in error and "trained" not in said


def test_what_cannot_be_cut_is_said_before_any_training(kezuri, recipe, tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    code, said, _ = kezuri("run", recipe, "model.options={}", "model.use=nets.py:linear")
    assert code == 2 and "trained" not in said


def test_packages_that_are_not_installed_come_with_the_command_to_install_them(kezuri, recipe):
    for package in ("timm", "torchvision"):
        code, _, said = kezuri("check", recipe, "model.options={}", f"model.use={package}:resnet18")
        if "no option" not in said and "is not installed" not in said:
            pytest.skip(f"{package} is installed here")
        assert code == 2 and f"pip install 'kezuri[{package}]'" in said


def test_an_untrained_model_has_no_accuracy_to_keep(kezuri, images):
    code, _, said = kezuri("compress", "resnet8", "--data", images)
    assert code == 2 and "it is not trained" in said and "--train-epochs" in said


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--rate", "1.5", r"kezuri compress: steps\[0\].rate: .*\(0, 1\), got 1.5"),
        ("--lr-ratio", "2", r"lr_ratio: .*got 2.0"),
        ("--keep-accuracy", "1.0", "goal.accuracy: .*got 1.0"),
        ("--objective", "tiny", "'smallest' or 'fastest', got 'tiny'"),
        ("--criterion", "l3", "no criterion named 'l3'"),
        ("--augment", "flip,flop", "did you mean 'flip'"),
        ("--rounds", "0", "Invalid value for .--rounds"),
        ("--train-epochs", "-1", "Invalid value for .--train-epochs"),
        ("--name", "a b", "used as a folder name"),
    ],
)
def test_a_wrong_option_of_compress(kezuri, images, option, value, message):
    code, _, said = kezuri("compress", "resnet8", "--data", images, option, value)
    assert code == 2 and re.search(message, said), said
