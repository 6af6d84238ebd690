import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kezuri.core.errors import Interrupted, UsageError
from kezuri.data.augment import CutMix, Flip, Mixup
from kezuri.distillation import Attention, Decoupled, Distillation, Hint, Logits
from kezuri.model.program import as_program
from kezuri.quantization.quantize import quantize
from kezuri.train import NullProgress, Training, estimate_step_seconds, fit
from kezuri.train.optimizers import SGD, Adam

SHORT = Training(epochs=2, batch_size=16, lr=0.05)
EVERY = [Logits(), Decoupled(), Hint(), Attention()]
IMAGES = torch.zeros(2, 1, 8, 8)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


class Stop(NullProgress):
    def __init__(self, after):
        self.left = after

    def advance(self, steps, _figures):
        self.left -= steps
        if self.left == 0 and steps:
            raise KeyboardInterrupt


@pytest.fixture(params=EVERY, ids=lambda loss: type(loss).__name__)
def loss(request):
    return request.param


def test_the_student_learns_and_the_teacher_stays_as_it_was(student, teacher, patterns, loss):
    teacher.train()
    before, start = weights(teacher), weights(student)
    fitted = fit(student, patterns, SHORT, seed=0, device="cpu", objective=Distillation(teacher, loss))
    assert same(before, teacher.state_dict()) and teacher.training
    assert all(one.grad is None for one in teacher.parameters())
    assert not same(start, student.state_dict())
    assert fitted.epochs[-1].train_loss < fitted.epochs[0].train_loss
    models = (student, teacher)
    assert not any(module._forward_hooks for model in models for module in model.modules())


def test_one_step_is_the_textbook_step(student, teacher, patterns):
    training = Training(
        epochs=1, batch_size=128, lr=0.1, optimizer=SGD(0, 0, nesterov=False), precision="float32"
    )
    student.drop.p = 0.0
    expected = copy.deepcopy(student).train()
    batch = next(iter(patterns.train.batches(128, seed=0)))
    with torch.no_grad():
        taught = copy.deepcopy(teacher).eval()(batch.images)
    answers = expected(batch.images)
    soft = F.kl_div(F.log_softmax(answers / 3, 1), F.softmax(taught / 3, 1), reduction="batchmean")
    (0.3 * F.cross_entropy(answers, batch.targets) + 0.7 * 9 * soft).backward()
    objective = Distillation(teacher, Logits(3.0, 0.7))
    rate = training.lr_schedule(0.5, 1) * training.lr
    fit(student, patterns, training, seed=0, device="cpu", objective=objective)
    for (name, ours), theirs in zip(student.named_parameters(), expected.parameters(), strict=True):
        assert torch.allclose(ours, theirs.detach() - rate * theirs.grad, atol=1e-6), name


def test_a_teacher_of_the_same_weights_adds_nothing(student, patterns):
    """KL of a model with itself is zero, so only the labels' share is left; dropout and BatchNorm aside."""
    student.drop.p = 0.0
    student.first[1] = torch.nn.Identity()
    teacher = copy.deepcopy(student)
    objective = Distillation(teacher, Logits(4.0, alpha=1.0))
    training = Training(
        epochs=1, batch_size=128, lr=0.1, precision="float32", optimizer=SGD(0, 0, nesterov=False)
    )
    before = weights(student)
    fitted = fit(student, patterns, training, seed=0, device="cpu", objective=objective)
    assert abs(fitted.epochs[0].train_loss) < 1e-6
    assert all(torch.allclose(before[name], value, atol=1e-5) for name, value in student.state_dict().items())


@pytest.mark.parametrize("augment", [(Mixup(),), (Flip(), CutMix(p=1.0))])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_mixed_images_and_narrow_arithmetic(net, patterns, loss, augment, precision):
    training = replace(SHORT, epochs=0.5, augment=augment, precision=precision)
    student, teacher = net(4), net(8)
    fitted = fit(student, patterns, training, seed=0, device="cpu", objective=Distillation(teacher, loss))
    assert 0 < fitted.epochs[0].train_loss < 1e4


@pytest.mark.parametrize("steps", [3, 8, 11])
def test_killed_and_resumed_with_a_regressor_of_its_own_it_ends_the_same(net, patterns, tmp_path, steps):
    training = replace(SHORT, optimizer=Adam(), lr=0.01, augment=(Mixup(),))

    def objective():
        return Distillation(net(8, seed=1), Hint(taps={"first": "first", "second": "second"}))

    whole = net(4)
    fit(whole, patterns, training, seed=3, device="cpu", objective=objective())
    settings = {"seed": 3, "device": "cpu", "checkpoint": tmp_path}
    with pytest.raises(Interrupted):
        fit(net(4), patterns, training, **settings, objective=objective(), progress=Stop(steps))
    model = net(4, seed=9)
    fit(model, patterns, training, **settings, objective=objective())
    assert same(whole.state_dict(), model.state_dict())


def test_a_checkpoint_knows_teacher_and_loss(net, patterns, tmp_path):
    def train(teacher_seed, loss):
        objective = Distillation(net(8, seed=teacher_seed), loss)
        return fit(net(4), patterns, SHORT, seed=0, device="cpu", checkpoint=tmp_path, objective=objective)

    assert train(1, Logits()) == train(1, Logits())
    for other in ((2, Logits()), (1, Logits(2.0)), (1, Decoupled())):
        with pytest.raises(UsageError, match=r"not the same: objective\)"):
            train(*other)


def test_regressors_follow_from_the_seed(net, patterns):
    found = []
    for seed in (0, 0, 1):
        objective = Distillation(net(8), Hint())
        model = net(4)
        fit(
            model,
            patterns,
            replace(SHORT, epochs=1, augment=()),
            seed=seed,
            device="cpu",
            objective=objective,
        )
        found.append(weights(model))
    assert same(found[0], found[1]) and not same(found[0], found[2])


def test_a_program_learns_and_teaches_like_the_model_it_was(net, patterns, loss):
    found = []
    for as_graph in (False, True):
        student, teacher = net(4), net(8, seed=1)
        student.drop.p = 0.0
        if as_graph:
            student, teacher = as_program(student, (IMAGES,)), as_program(teacher, (IMAGES,))
        training = replace(SHORT, precision="float32", epochs=1)
        fit(student, patterns, training, seed=0, device="cpu", objective=Distillation(teacher, loss))
        found.append(dict(student.named_parameters()))
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-4) for name in found[0])


def test_misfits_are_refused_before_training(net, patterns, student):
    def train(teacher, loss=None):
        fit(student, patterns, SHORT, seed=0, objective=Distillation(teacher, loss or Logits()), device="cpu")

    with pytest.raises(UsageError, match=r"student answers \(2, 4\) and the teacher \(2, 5\)"):
        train(net(8, classes=5))
    with pytest.raises(UsageError, match=r"share 8 parameters, .*teach with a copy"):
        train(student)
    borrower = net(4)
    borrower.last = student.last
    with pytest.raises(UsageError, match="share 2 parameters"):
        train(borrower)
    with pytest.raises(UsageError, match="taps: no feature of the student is named 'third'"):
        train(net(8), Hint(taps={"third": "first"}))
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    with pytest.raises(UsageError, match="no stages in common"):
        train(flat, Attention())
    with pytest.raises(UsageError, match="works inside fit"):
        Distillation(net(8)).tensors()
    assert not any(module._forward_hooks for module in student.modules())


def test_an_estimate_counts_the_teacher(student, teacher, patterns, loss):
    before = weights(student)
    assert estimate_step_seconds(student, patterns, SHORT, "cpu", Distillation(teacher, loss)) > 0
    assert same(before, student.state_dict())


@pytest.mark.parametrize("loss", [Logits(), Attention(beside=Logits())], ids=["logits", "attention"])
def test_a_model_in_integers_learns_from_the_one_it_was(net, patterns, loss, tmp_path):
    teacher = net(4)
    fit(teacher, patterns, SHORT, seed=0, device="cpu")
    quantized = quantize(teacher, patterns, bits=4, seed=0)
    before = weights(quantized.model)
    pairs = Distillation(teacher, loss).pairs(quantized.model, IMAGES)
    assert [pair.student_size for pair in pairs] == ([(4, 8, 8), (8, 4, 4)] if loss.looks_inside else [])
    objective = Distillation(teacher, loss)
    fit(quantized.model, patterns, replace(SHORT, lr=0.01), seed=0, device="cpu", objective=objective)
    assert before.keys() == quantized.model.state_dict().keys()
    assert not same(before, quantized.model.state_dict())
    quantized.export(tmp_path / "model.onnx")


def test_decoupled_trains_a_student_without_normalisation(net, patterns):
    teacher = net(16, seed=1)
    fit(teacher, patterns, replace(SHORT, epochs=8, lr=0.2, augment=()), seed=0, device="cpu")

    def taught(loss):
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
        training = Training(epochs=10, batch_size=16, lr=0.1)
        objective = Distillation(teacher, loss)
        return fit(nn.Sequential(*layers), patterns, training, seed=0, device="cpu", objective=objective)

    assert taught(Decoupled()).epochs[-1].validation_accuracy > 0.9
    assert taught(Decoupled(warmup_steps=0, clip=None)).best_accuracy < 0.5  # what the two are for
