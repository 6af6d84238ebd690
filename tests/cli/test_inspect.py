"""`kezuri inspect`: what it prints and writes, and how it answers wrong input."""

import json
import xml.etree.ElementTree as ET

import pytest

NETS = """
from torch import nn

def net(classes):
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(384, classes)
    )

class Deciding(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)

    def forward(self, x):
        if x.sum() > 1e9:  # line 15
            return -self.conv(x)
        return self.conv(x)

def nothing():
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 4))
"""


@pytest.fixture
def nets(tmp_path):
    (tmp_path / "nets.py").write_text(NETS, encoding="utf-8")
    return ("nets.py:net", "--image", "1x12x12")


def test_prints_what_can_go_what_cannot_and_what_comes_next(kezuri):
    code, said, _ = kezuri("inspect", "resnet8", "--no-ms")
    assert code == 0
    assert "images 3×32×32, 8 layers, 75,290 parameters" in said
    for name in ("conv1", "layer1.0.conv1", "layer2.0.conv2#2"):
        assert name in said
    assert "graph output: linear (10)" in said
    assert "176 of 186 channels can go: 8 free, 2 blocked couplings" in said
    assert "kezuri compress resnet8 --data FOLDER" in said
    assert " ms" not in said


def test_times_draws_and_writes_everything(kezuri, nets, tmp_path):
    files = ("--out", "a/page.html", "--svg", "b.svg", "--json", "c.json")
    code, said, heard = kezuri("inspect", *nets, "--classes", 4, *files, "--budget-seconds", 600)
    assert code == 0 and "wrote    a/page.html" in said and heard == ""
    plain = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    found = {one["name"]: one for one in plain["couplings"]}
    assert found["4"]["width"] == 4 and found["4"]["reason"] == "graph output"
    for name in ("0", "2"):
        spread = found[name]["latency"]
        assert spread["low"] <= spread["value"] <= spread["high"]
    assert "ONNX Runtime, 1 thread" in said and "range of ms" in said
    assert all(f'id="coupling-{at}"' in (tmp_path / "a/page.html").read_text() for at in range(len(found)))
    assert ET.parse(tmp_path / "b.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize("width", [30, 60, 100])
def test_sentences_fit_the_terminal(kezuri, nets, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    code, said, _ = kezuri("inspect", *nets, "--no-ms")
    below = said[said.index("blocked") :]
    assert code == 0 and "compress" in below
    assert max(map(len, below.splitlines())) <= max(width, 40)


def test_layers_can_be_protected(kezuri):
    code, said, _ = kezuri(
        "inspect", "resnet8", "--no-ms", "--protect", "layer1.*", "--protect", "layer3.0.conv1"
    )
    assert code == 0 and "protected: " in said and "layer3.0.conv1 (64)" in said
    code, _, said = kezuri("inspect", "resnet8", "--no-ms", "--protect", "layer9")
    assert code == 2 and "layer9" in said


def test_a_run_and_its_models_can_be_named(kezuri, ended):
    code, said, _ = kezuri("inspect", ended, "--no-ms")
    assert code == 0 and "models/final" in said and "1×12×12" in said and "next " not in said
    code, dense, _ = kezuri("inspect", ended / "models" / "dense", "--no-ms")
    assert code == 0 and dense != said


def test_a_model_with_nothing_to_cut_says_so(kezuri, nets):
    code, said, _ = kezuri("inspect", "nets.py:nothing", *nets[1:])
    assert code == 0 and "0 of 4 channels can go" in said and "next " not in said


@pytest.mark.parametrize(
    ("words", "code", "words_said"),
    [
        (["resnet65"], 2, "did you mean 'resnet56'"),
        (["resnet8", "--image", "32x32"], 2, "such as 3x224x224"),
        (["resnet8", "--image", "3x0x32"], 2, "such as 3x224x224"),
        (["resnet8", "--image", "1x32x32", "--weights", "none.pt"], 3, "no file none.pt"),
        (["resnet8", "--classes", "0"], 2, ""),
        (["resnet8", "--out", "page.png"], 2, "--out is a file that ends in .html"),
        (["resnet8", "--svg", "page.html"], 2, "--svg is a file that ends in .svg"),
        (["resnet8", "--json", "."], 2, "--json is a file that ends in .json"),
        (["resnet8", "--threads", "many"], 2, "--threads is a number, or all"),
        (["resnet8", "--threads", "0"], 2, "threads is a number from 1"),
        (["resnet8", "--budget-seconds", "0"], 2, "above 0 seconds"),
        (["resnet8", "--budget-seconds", "nan"], 2, "above 0 seconds"),
        (["resnet8", "--build", "nets.py:net"], 2, "not a folder"),
        (["model.onnx"], 2, "the PyTorch model it was made from"),
        (["."], 3, "holds no model"),
        (["gone.py:net"], 2, "no file gone.py"),
        (["nets.py:ent"], 2, "did you mean 'net'"),
        (["nets.py:net", "--image", "3x12x12"], 2, "does not accept an input of shape (2, 3, 12, 12)"),
        (["nets.py:Deciding", "--image", "1x12x12"], 2, "nets.py:15"),
    ],
)
def test_wrong_input_is_answered_in_a_line(kezuri, nets, words, code, words_said):
    ended, said, heard = kezuri("inspect", *words)
    assert ended == code and words_said in heard and said == ""


def test_a_disk_that_cannot_be_written_is_an_error(kezuri, nets, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    code, _, said = kezuri("inspect", *nets, "--no-ms", "--json", "file/found.json")
    assert code == 4 and "cannot write" in said
