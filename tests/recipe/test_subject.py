from pathlib import Path

import pytest
import torch

from kezuri.artifact.atomic import write_json
from kezuri.core.errors import CorruptArtifact, DataError, ModelError, UnknownName, UsageError
from kezuri.model.coupling import couple
from kezuri.model.load import ModelSpec, load_model
from kezuri.model.portable import save_model
from kezuri.model.proof import cut
from kezuri.recipe.subject import find_subject

NET = """
from torch import nn

def net(classes, width=8):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(classes))

def fixed(classes=7):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))
"""


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A cut model of the zoo, saved."""
    spec = ModelSpec("resnet8", {"width": 0.5})
    model = load_model(spec, classes=4, image_shape=(1, 20, 20)).eval()
    example = torch.zeros(2, 1, 20, 20)
    done = cut(model, couple(model, example), {"conv1": torch.arange(8) < 6}, example)
    folder = tmp_path / "models" / "final"
    save_model(folder, done.model, spec=spec, classes=4, image_shape=(1, 20, 20), structure=done.structure)
    return folder


def test_models_of_the_zoo_come_with_the_images_they_are_for() -> None:
    assert find_subject("resnet8").image_shape == (3, 32, 32)
    assert find_subject("lenet5").image_shape == (1, 28, 28)
    small = find_subject("vit_tiny", image_shape=(1, 16, 16), classes=3)
    assert small.model(torch.zeros(2, 1, 16, 16)).shape == (2, 3)


def test_your_own_function_and_its_weights(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NET, encoding="utf-8")
    name = f"{tmp_path}/nets.py:fixed"
    subject = find_subject(name, image_shape=(1, 9, 9))
    assert (subject.name, subject.image_shape) == (name, (1, 9, 9))
    assert subject.model(torch.zeros(2, 1, 9, 9)).shape == (2, 10)
    assert find_subject(name).image_shape == (3, 224, 224)
    torch.save(subject.model.state_dict(), tmp_path / "w.pt")
    again = find_subject(name, image_shape=(1, 9, 9), weights=tmp_path / "w.pt")
    assert torch.equal(again.model[0].weight, subject.model[0].weight)
    with pytest.raises(DataError, match="no file"):
        find_subject(name, weights=tmp_path / "none.pt")


def test_a_saved_model_is_read_as_it_was_cut(saved: Path) -> None:
    subject = find_subject(str(saved))
    assert subject.image_shape == (1, 20, 20)
    assert subject.model(torch.zeros(2, 1, 20, 20)).shape == (2, 4)
    assert subject.model.conv1.out_channels == 6
    assert find_subject(str(saved), image_shape=(1, 40, 40)).image_shape == (1, 40, 40)


def test_a_run_stands_for_its_final_model_or_its_dense_one(saved: Path) -> None:
    run = saved.parents[1]
    write_json(run / "recipe.json", {})
    assert find_subject(str(run)).name == str(saved)
    saved.rename(saved.with_name("dense"))
    assert find_subject(str(run)).name == str(saved.with_name("dense"))
    (saved.with_name("dense") / "structure.json").unlink()
    with pytest.raises(DataError, match="kezuri resume"):
        find_subject(str(run))


def test_a_saved_model_of_your_own_code_needs_its_function(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NET, encoding="utf-8")
    model = find_subject(f"{tmp_path}/nets.py:fixed", classes=5, image_shape=(1, 9, 9)).model
    spec = ModelSpec("nets.py:fixed")
    folder = tmp_path / "saved"
    structure = cut(model, couple(model, torch.zeros(2, 1, 9, 9)), {}, torch.zeros(2, 1, 9, 9)).structure
    save_model(folder, model, spec=spec, classes=5, image_shape=(1, 9, 9), structure=structure)
    with pytest.raises(UsageError, match=r"--build nets\.py:fixed"):
        find_subject(str(folder))
    found = find_subject(str(folder), build=f"{tmp_path}/nets.py:fixed")
    assert torch.equal(found.model(torch.ones(1, 1, 9, 9)), model.eval()(torch.ones(1, 1, 9, 9)))
    with pytest.raises(UsageError, match="not a folder"):
        find_subject("resnet8", build=f"{tmp_path}/nets.py:fixed")


def test_what_is_no_model_is_answered_with_what_to_do(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'resnet56'"):
        find_subject("resnet65")
    with pytest.raises(UsageError, match="PyTorch model it was made from"):
        find_subject("model.onnx")
    with pytest.raises(UsageError, match=r"--weights best\.pt"):
        find_subject("best.pt")
    with pytest.raises(DataError, match="holds no model"):
        find_subject(str(tmp_path))
    with pytest.raises(UsageError, match="as many classes"):
        find_subject(str(saved), classes=10)
    with pytest.raises(ModelError, match="no file"):
        find_subject("gone.py:net")
    (saved / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CorruptArtifact, match="bytes"):
        find_subject(str(saved))
