import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from kezuri.core.errors import KezuriWarning, UnknownName, UsageError
from kezuri.data import from_tensors
from kezuri.distillation import Distillation, Logits
from kezuri.prune.masks import Masks
from kezuri.recipe.distill import distill
from kezuri.train import NullProgress, Training, evaluate, fit

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
    alone = distill(make(), teacher, data, SHORT, candidates={"eight": lambda: make(8)}, device="cpu")
    assert alone.choice is None and alone.assistants[0][0][0].out_channels == 8


def other(model, classes=3, channels=1):
    """A model of this kind for other data."""
    made = make(model)
    made[0], made[-1] = nn.Conv2d(channels, model, 3), nn.Linear(16 * model, classes)
    return made


MISFITS = {
    "both": ({"assistants": [make(8)], "candidates": {"a": make}}, "not both"),
    "no teacher": ({"teacher": None}, "the teacher must be a PyTorch module, got NoneType"),
    "untrained": ({"teacher": make(12, seed=2)}, "the teacher is right on .* nothing to teach"),
    "classes": ({"teacher": other(12, classes=5)}, r"the teacher: .* answers \(2, 5\), .* 3 classes"),
    "channels": ({"student": other(4, channels=3)}, "the student: the model cannot take images of 1x6x6"),
    "assistant": ({"assistants": [other(8, classes=2)]}, r"assistant 1: .* answers \(2, 2\)"),
    "larger": ({"assistants": [make(13)]}, "assistant 1 has 783 parameters and the teacher, .* 723"),
    "order": ({"assistants": [make(6), make(8)]}, "assistant 2 has 483 .* and assistant 1, .* 363"),
    "equal": ({"assistants": [make(4)]}, "assistant 1 has 243 .* and the student, .* 243"),
    "frozen": ({"student": make().requires_grad_(False), "assistants": [make(8)]}, "nothing to train"),
    "no candidates": ({"candidates": {}}, "no candidates to choose an assistant from"),
    "built": ({"candidates": {"a": make(8)}}, "candidate 'a' must be a function that builds a model"),
    "candidate": (
        {"candidates": {"six": lambda: make(6), "ten": lambda: other(10, classes=4)}},
        r"candidate 'ten': .* answers \(2, 4\)",
    ),
    "taps": ({"candidates": {"six": lambda: make(6), "flat": lambda: flat()}, "loss": "hint"}, "no stages"),
}


def flat():
    """A model without maps, larger than the student."""
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize(("settings", "message"), MISFITS.values(), ids=MISFITS)
def test_what_cannot_work_is_refused_before_any_training(data, teacher, settings, message):
    class Trains(NullProgress):
        def start(self, what, total, done):
            raise AssertionError(what)

    arguments = {"student": make(), "teacher": teacher, **settings}
    with pytest.raises(UsageError, match=message):
        distill(data=data, training=SHORT, device="cpu", progress=Trains(), **arguments)


def test_a_student_that_learns_nothing_or_is_larger_is_remarked_on(data, teacher):
    with pytest.warns(KezuriWarning, match="the student learnt nothing: it is right on .* no better"):
        distill(make(), teacher, data, Training(epochs=1, batch_size=20, lr=1e-9), device="cpu")
    with pytest.warns(KezuriWarning, match="the student has 963 parameters and its teacher 723"):
        distill(make(16), teacher, data, SHORT, device="cpu")


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
