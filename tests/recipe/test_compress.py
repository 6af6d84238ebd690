import pytest
import torch
from torch import nn

import kezuri
from kezuri.core.errors import DataError, GoalUnreachable, ModelError, UsageError
from kezuri.core.goal import Goal


@pytest.fixture(scope="module")
def data(images):
    return kezuri.load_data(str(images), validation=0.25)


@pytest.fixture(scope="module")
def trained(data):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4)
        )
    kezuri.fit(model, data, kezuri.Training(epochs=20, lr=0.02, batch_size=16), seed=0, device="cpu")
    return model


def test_a_model_in_memory_comes_back_smaller_and_the_one_given_stays(trained, data, tmp_path):
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    settings = {"rounds": 1, "rate": 0.3, "epochs": 2, "batch_size": 16, "runs": tmp_path, "device": "cpu"}
    found = kezuri.compress(trained, data, Goal(accuracy=-0.9), **settings)
    assert sum(p.numel() for p in found.model.parameters()) < sum(p.numel() for p in trained.parameters())
    assert found.model(torch.zeros(2, 1, 12, 12)).shape == (2, 4) and not found.model.training
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items())
    assert found.answer["met"] and str(found) == found.answer["text"]
    assert (found.folder / "models" / "final" / "model.onnx").is_file()
    again = kezuri.compress(trained, data, Goal(accuracy=-0.9), **settings)  # finished: nothing is done again
    assert again.folder == found.folder
    for name, value in found.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
    with pytest.raises(DataError, match=r"in Python only; call kezuri\.compress again"):
        kezuri.resume(found.folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rte": 0.1}, "rte"),
        ({"rate": 0}, r"\(0, 1\), got 0"),
        ({"lr_ratio": 2}, "got 2"),
        ({"name": "a b"}, "folder name"),
        ({"seed": -1}, "0 or more, got -1"),
        ({"steps": (), "rate": 0.1}, "steps are given, so these have no effect: rate"),
        ({"device": "tpu"}, "no device 'tpu'"),
        ({"threads": 0}, "from 1 to 256"),
        ({"goal": Goal(accuracy=0.5), "steps": ()}, "at least one step"),
    ],
)
def test_a_setting_that_makes_no_sense(trained, data, tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        kezuri.compress(trained, data, **{"runs": tmp_path, **settings})


def test_data_of_another_kind(trained, tmp_path):
    with pytest.raises(UsageError, match="got list"):
        kezuri.compress(trained, [1, 2], runs=tmp_path)


def test_a_model_that_does_not_fit_the_data(data, tmp_path):
    with pytest.raises(ModelError, match=r"answers \(2, 9\), but the data has 4 classes"):
        kezuri.compress(nn.Sequential(nn.Flatten(), nn.Linear(144, 9)), data, runs=tmp_path)


def test_an_untrained_model_has_no_accuracy_to_keep(data, tmp_path):
    untrained = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(400, 4))
    nn.init.zeros_(untrained[2].weight)
    with pytest.raises(UsageError, match="it is not trained"):
        kezuri.compress(untrained, data, runs=tmp_path, device="cpu")


def test_a_goal_above_the_start_is_unreachable(trained, data, tmp_path):
    spoilt = nn.Sequential(trained, nn.Linear(4, 4))
    with torch.no_grad():
        spoilt[1].weight.copy_(torch.eye(4))
        spoilt[1].bias.copy_(torch.tensor([0.0, 0, 0, -1e4]))  # the last class is never answered
    with pytest.raises(GoalUnreachable, match=r"asks for accuracy 99.00%, but the model starts at"):
        kezuri.compress(spoilt, data, Goal(accuracy=0.99), runs=tmp_path, device="cpu")
