import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kezuri.core.errors import Interrupted, UsageError
from kezuri.distillation import Distillation, Hint, Logits
from kezuri.distillation.assistant import (
    FAMILIES,
    Pupil,
    between,
    check_sizes,
    choose_assistant,
    larger_student,
    nearest_to_mean,
    teach_in_turn,
)
from kezuri.model.load import load_model
from kezuri.train import NullProgress, Training, evaluate, fit

SHORT = Training(epochs=1, batch_size=32, lr=0.05)
LONG = replace(SHORT, epochs=8, lr=0.2)  # 32 steps


@pytest.fixture
def teacher(net, patterns):
    """Trained."""
    model = net(16, seed=1)
    fit(model, patterns, LONG, seed=0, device="cpu")
    return model


def same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_assistants_of_a_family_are_those_between():
    assert between("resnet8", "resnet56") == ("resnet20", "resnet32", "resnet44")
    assert between("resnet20", "resnet44") == ("resnet32",)
    with pytest.raises(UsageError, match="no assistant between resnet8 and resnet20: the family is resnet8"):
        between("resnet8", "resnet20")
    with pytest.raises(UsageError, match="no assistant between resnet56 and resnet8"):
        between("resnet56", "resnet8")
    with pytest.raises(UsageError, match="no assistants are known between lenet5 and resnet56"):
        between("lenet5", "resnet56")


def test_families_are_in_order_of_size():
    for family in FAMILIES:
        models = [load_model(name, classes=10, image_shape=(3, 32, 32)) for name in family]
        sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in models]
        assert sizes == sorted(sizes) and len(set(sizes)) == len(sizes)


def test_the_nearest_to_the_mean_is_chosen():
    accuracies = {"small": 0.70, "middle": 0.80, "large": 0.88}
    assert nearest_to_mean(accuracies, student=0.6, teacher=0.9) == "small"  # the mean is 0.75, both as near
    assert nearest_to_mean(accuracies, student=0.65, teacher=0.9) == "middle"
    assert nearest_to_mean(accuracies, student=0.85, teacher=0.95) == "large"
    with pytest.raises(UsageError, match="no candidates"):
        nearest_to_mean({}, student=0, teacher=1)


@given(
    st.dictionaries(st.text(max_size=3), st.integers(0, 100), min_size=1),
    st.integers(0, 100),
    st.integers(0, 100),
)
def test_none_is_nearer_than_the_chosen(accuracies, student, teacher):
    chosen = nearest_to_mean(accuracies, student=student, teacher=teacher)
    mean = (student + teacher) / 2
    assert all(abs(accuracies[chosen] - mean) <= abs(value - mean) for value in accuracies.values())


def test_choosing_trains_all_alone(net, patterns):
    teacher = net(16)
    fit(teacher, patterns, replace(SHORT, epochs=4), seed=0, device="cpu")
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    candidates = {"six": net(6), "eight": net(8)}
    choice = choose_assistant(candidates, net(1), teacher, patterns, SHORT, seed=0, device="cpu")
    assert choice.name in candidates and set(choice.accuracies) == set(candidates)
    assert choice.teacher == evaluate(teacher, patterns.validation, device="cpu").accuracy
    for name, model in candidates.items():
        assert evaluate(model, patterns.validation, device="cpu").accuracy == choice.accuracies[name]
    assert choice.name == nearest_to_mean(choice.accuracies, student=choice.student, teacher=choice.teacher)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    with pytest.raises(UsageError, match="no candidates"):
        choose_assistant({}, net(1), teacher, patterns, SHORT, seed=0)


def test_each_learns_from_the_one_before(net, patterns, teacher):
    assistant, student, before = net(8, seed=2), net(4), copy.deepcopy(teacher)
    fitted = teach_in_turn(
        teacher,
        [Pupil(assistant, Logits(2.0)), Pupil(student, Hint())],
        patterns,
        LONG,
        seed=5,
        device="cpu",
    )
    assert len(fitted) == 2
    by_hand = net(4)
    last = fit(by_hand, patterns, LONG, seed=5, device="cpu", objective=Distillation(assistant, Hint()))
    assert same(student, by_hand) and last.best_accuracy == fitted[1].best_accuracy
    assert not same(assistant, net(8, seed=2)) and same(teacher, before)


def test_without_assistants_it_is_plain_distillation(net, patterns):
    one, other, teacher = net(4), net(4), net(8)
    teach_in_turn(teacher, [Pupil(one)], patterns, SHORT, seed=5, device="cpu")
    fit(other, patterns, SHORT, seed=5, device="cpu", objective=Distillation(teacher))
    assert same(one, other)


def test_a_chain_stopped_anywhere_ends_the_same(net, patterns, teacher, tmp_path):
    class Stop(NullProgress):
        left = 0

        def advance(self, steps, _figures):
            self.left -= steps
            if self.left == 0 and steps:
                raise KeyboardInterrupt

    def teach(progress=None, checkpoint=None):
        pupils = [Pupil(net(8, seed=2)), Pupil(net(4), Hint())]
        settings = {"seed": 5, "device": "cpu", "progress": progress, "checkpoint": checkpoint}
        teach_in_turn(teacher, pupils, patterns, LONG, **settings)
        return pupils[-1].model

    expected = teach()
    stop = Stop()
    for more in (2, 34, 1):  # 32 steps each: within the first, in the second, again in the second
        stop.left = more
        with pytest.raises(Interrupted):
            teach(stop, tmp_path)
    assert same(teach(None, tmp_path), expected)


def test_an_assistant_that_learnt_nothing_does_not_teach(net, patterns, teacher):
    student = net(4)
    with pytest.raises(UsageError, match=r"^assistant 1 is right on .* nothing to teach: try a lower lr"):
        pupils = [Pupil(net(8)), Pupil(student)]
        teach_in_turn(teacher, pupils, patterns, replace(SHORT, lr=1e-9), seed=0, device="cpu")
    assert same(student, net(4))


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ([20], "^first has 7,644 parameters and the teacher, which is to teach it, 4,964: name assistants"),
        ([16], "^first has 4,964 parameters and the teacher, which is to teach it, 4,964"),
        ([8, 12], "^second has 2,860 parameters and first, which is to teach it, 1,332"),
        ([8, 8], "^second has 1,332 parameters and first, which is to teach it, 1,332"),
        (
            [8, 4],
            "^second has 380 parameters and the student, which it is to teach, 380: an assistant stands",
        ),
        ([8, 2], "^second has 120 parameters and the student, which it is to teach, 380"),
    ],
)
def test_assistants_stand_between_from_the_largest(net, widths, message):
    assistants = dict(zip(("first", "second"), map(net, widths), strict=False))
    with pytest.raises(UsageError, match=message):
        check_sizes(net(16), assistants, net(4))
    check_sizes(net(16), {"first": net(12), "second": net(8)}, net(4))
    check_sizes(net(16), {"first": net(4)})


def test_a_student_larger_than_its_teacher_is_remarked_on(net):
    assert larger_student(net(16), net(16)) is None and larger_student(net(16), net(4)) is None
    assert "the student has 4,964 parameters and its teacher 380" in larger_student(net(4), net(16))


def test_a_chain_with_a_misfit_is_refused_before_the_first_training(net, patterns):
    assistant = net(8)
    for wrong, message in (
        (Pupil(net(4, classes=3)), "the student answers"),
        (Pupil(net(4), Hint(taps={"a": "b"})), "taps: no feature"),
    ):
        with pytest.raises(UsageError, match=message):
            teach_in_turn(net(16), [Pupil(assistant), wrong], patterns, SHORT, seed=0, device="cpu")
    assert same(assistant, net(8))
