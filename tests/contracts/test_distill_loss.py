"""What every distillation loss must do. A new one is covered by being registered."""

import pytest
import torch
import torch.nn.functional as F

import kezuri.distillation
from kezuri.distillation.loss import Lesson, losses
from kezuri.distillation.tap import Pair

SIZES = {"a": (4, 8, 8), "b": (6, 4, 4), "c": (8, 2, 2)}
WIDER = {"A": (5, 8, 8), "B": (7, 4, 4), "C": (9, 2, 2)}
BATCH, CLASSES = 6, 4


@pytest.fixture(params=sorted(losses))
def loss(request):
    return losses[request.param]()


def lesson(loss, *, mixed=False, alike=False, progress=1.0, seed=0):
    """A batch: random logits and features of everything the loss asked for."""
    draw = torch.Generator().manual_seed(seed)
    pairs = loss.pairs(SIZES, SIZES if alike else WIDER)
    own = loss.parameters(pairs, torch.Generator().manual_seed(1))
    student = torch.randn(BATCH, CLASSES, generator=draw).requires_grad_()
    teacher = student.detach().clone() if alike else torch.randn(BATCH, CLASSES, generator=draw)
    features = []
    for pair in pairs:
        ours = torch.randn(BATCH, *pair.student_size, generator=draw).requires_grad_()
        theirs = torch.randn(BATCH, *pair.teacher_size, generator=draw)
        features.append((ours, ours.detach().clone() if alike else theirs))
    targets = torch.arange(BATCH) % CLASSES
    if mixed:
        targets = 0.6 * F.one_hot(targets, CLASSES) + 0.4 * F.one_hot(targets.flip(0), CLASSES)
    return Lesson(
        targets, student, teacher, F.cross_entropy(student, targets), tuple(features), own, progress
    )


def test_there_are_losses_to_test():
    assert len(losses) >= 4 and kezuri.distillation.losses is not None


@pytest.mark.parametrize("mixed", [False, True])
def test_it_is_a_finite_scalar_whose_gradient_reaches_all_the_student_has_a_say_in(loss, mixed):
    given = lesson(loss, mixed=mixed)
    value = loss(given)
    assert value.shape == () and value.dtype == torch.float32 and torch.isfinite(value)
    value.backward()
    reached = [given.student, *(ours for ours, _ in given.features), *given.own.values()]
    assert all(one.grad is not None and torch.isfinite(one.grad).all() for one in reached)
    assert any(one.grad.abs().sum() > 0 for one in reached)


def test_the_same_lesson_gives_the_same_and_is_left_alone(loss):
    given = lesson(loss)
    before = [
        given.student.clone(),
        given.teacher.clone(),
        *(x.clone() for pair in given.features for x in pair),
    ]
    assert torch.equal(loss(given), loss(given))
    after = [given.student, given.teacher, *(x for pair in given.features for x in pair)]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_only_what_looks_inside_asks_for_features(loss):
    pairs = loss.pairs(SIZES, WIDER)
    assert bool(pairs) == loss.looks_inside
    assert all(isinstance(pair, Pair) and pair.student in SIZES and pair.teacher in WIDER for pair in pairs)
    assert loss.looks_inside or not loss.parameters((), torch.Generator())


def test_a_student_like_its_teacher_has_nothing_to_learn_from_it(loss):
    """But what regressors of its own miss."""
    given = lesson(loss, alike=True)
    labels_share = getattr(loss, "alpha", 0.0) if losses.name_of(loss) == "logits" else 0.0
    if not given.own:
        assert torch.allclose(loss(given), (1 - labels_share) * given.labelled, atol=1e-5)
    else:
        assert loss(given) > given.labelled


def test_a_student_far_from_its_teacher_pays_more(loss):
    assert loss(lesson(loss)) > loss(lesson(loss, alike=True)) or lesson(loss).own
