import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from kezuri.core.errors import UnknownName, UsageError
from kezuri.data import from_tensors
from kezuri.distillation import Distillation, Logits
from kezuri.prune.masks import Masks
from kezuri.recipe.distill import distill
from kezuri.train import Training, evaluate, fit

SHORT = Training(epochs=2, batch_size=20, lr=0.05)


def make(width=4, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(16 * width, 3)
        )


@pytest.fixture(scope="module")
def images():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(150) % 3
    return torch.randn(3, 1, 6, 6, generator=draw)[labels] + torch.randn(150, 1, 6, 6, generator=draw), labels


@pytest.fixture(scope="module")
def data(images):
    return from_tensors(images, validation=30, seed=0)


@pytest.fixture(scope="module")
def teacher(data):
    model = make(12, seed=1)
    fit(model, data, Training(epochs=5, lr=0.05, batch_size=20), seed=0, device="cpu")
    return model


def same(one, other):
    return all(torch.equal(one.state_dict()[name], value) for name, value in other.state_dict().items())


def test_a_student_is_taught_in_place(data, teacher):
    student, by_hand = make(), make()
    result = distill(student, teacher, data, SHORT, seed=3, device="cpu")
    fitted = fit(by_hand, data, SHORT, seed=3, device="cpu", objective=Distillation(teacher))
    assert result.student is student and same(student, by_hand)
    assert result.accuracy == fitted.best_accuracy == evaluate(student, data.validation).accuracy
    assert result.teacher_accuracy == evaluate(teacher, data.validation).accuracy
    assert not result.assistants and result.choice is None
    assert str(result) == f"student {result.accuracy:.2%} (teacher {result.teacher_accuracy:.2%})"


def test_losses_by_name_and_by_settings(data, teacher):
    one, other, third = make(), make(), make()
    distill(one, teacher, data, SHORT, device="cpu")
    distill(other, teacher, data, SHORT, loss=Logits(), device="cpu")
    distill(third, teacher, data, SHORT, loss="attention", device="cpu")
    assert same(one, other) and not same(one, third)
    with pytest.raises(UnknownName, match="no distillation loss named 'kd'"):
        distill(make(), teacher, data, SHORT, loss="kd")


def test_assistants_given_or_chosen(data, teacher):
    assistant = make(8)
    result = distill(make(), teacher, data, SHORT, assistants=[assistant], device="cpu")
    assert result.assistants[0][0] is assistant and not same(assistant, make(8))
    assert f", assistant {result.assistants[0][1].best_accuracy:.2%})" in str(result)
    chosen = distill(
        make(),
        teacher,
        data,
        SHORT,
        candidates={"six": lambda: make(6), "ten": lambda: make(10)},
        device="cpu",
    )
    assert set(chosen.choice.accuracies) == {"six", "ten"}
    width = {"six": 6, "ten": 10}[chosen.choice.name]
    assert chosen.assistants[0][0][0].out_channels == width
    with pytest.raises(UsageError, match="not both"):
        distill(make(), teacher, data, SHORT, assistants=[assistant], candidates={"a": make})


def test_a_masked_student_stays_masked(data, teacher):
    student = make()
    mask = torch.ones(4, 1, 3, 3, dtype=torch.bool)
    mask[1] = False
    masks = Masks({"0.weight": mask})
    masks.apply_(student)
    distill(student, teacher, data, SHORT, hooks=[masks.hold()], device="cpu")
    assert not student[0].weight[1].any() and student[0].weight[0].all()


def test_any_dataset_will_do(images, teacher):
    dataset = TensorDataset(images[0], images[1])
    result = distill(make(), teacher, dataset, SHORT, loss="hint", device="cpu")
    assert 0 <= result.accuracy <= 1
