"""Exact values of each loss."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from kezuri.core.errors import UsageError
from kezuri.distillation import Attention, Decoupled, Hint, Logits
from kezuri.distillation.loss import Lesson
from kezuri.distillation.losses.attention import attention_map
from kezuri.distillation.losses.decoupled import decoupled_divergence, pulls
from kezuri.distillation.losses.hint import regressed
from kezuri.distillation.losses.logits import soft_divergence
from kezuri.distillation.tap import Pair


def drawn(seed, *shape, size=3.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size


def lesson(student, teacher, targets, **more):
    return Lesson(targets, student, teacher, F.cross_entropy(student, targets), **more)


def test_the_divergence_of_two_known_answers():
    # one image, two classes, logits T ln 3 and 0 against equal ones: p = (3/4, 1/4), q = (1/2, 1/2)
    for temperature in (1.0, 4.0):
        teacher = torch.tensor([[temperature * math.log(3), 0.0]])
        expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
        found = soft_divergence(torch.zeros(1, 2), teacher, temperature)
        assert float(found) == pytest.approx(temperature**2 * expected, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.5, 20), st.integers(1, 5), st.integers(2, 7))
def test_the_gradient_is_t_times_the_difference_of_probabilities(seed, temperature, batch, classes):
    student = drawn(seed, batch, classes).double().requires_grad_()
    teacher = drawn(seed + 1, batch, classes).double()
    soft_divergence(student, teacher, temperature).backward()
    ours, theirs = (F.softmax(logits.detach() / temperature, dim=1) for logits in (student, teacher))
    assert torch.allclose(student.grad, temperature * (ours - theirs) / batch, rtol=1e-9, atol=1e-12)


def test_logits_mixes_with_the_labels():
    student, teacher, targets = drawn(0, 4, 3), drawn(1, 4, 3), torch.tensor([0, 1, 2, 1])
    labelled, soft = F.cross_entropy(student, targets), soft_divergence(student, teacher, 2.0)
    for alpha in (0.0, 0.25, 1.0):
        found = Logits(2.0, alpha)(lesson(student, teacher, targets))
        assert torch.allclose(found, (1 - alpha) * labelled + alpha * soft)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.5, 20), st.integers(1, 5), st.integers(2, 7))
def test_decoupled_parts_add_up_to_the_whole(seed, temperature, batch, classes):
    """Zhao et al., 2022, equation 6."""
    student, teacher = drawn(seed, batch, classes).double(), drawn(seed + 1, batch, classes).double()
    target = torch.arange(batch) % classes
    first, second = decoupled_divergence(student, teacher, target, temperature)
    sure = F.softmax(teacher / temperature, dim=1).gather(1, target[:, None]).squeeze(1)
    whole = soft_divergence(student, teacher, temperature) / temperature**2
    assert torch.allclose((first + (1 - sure) * second).mean(), whole, rtol=1e-9, atol=1e-12)
    assert (first >= -1e-12).all() and (second >= -1e-12).all()


def test_decoupled_survives_answers_that_are_certain():
    student = torch.tensor([[300.0, -300.0, 0.0], [-300.0, 300.0, 0.0]]).requires_grad_()
    teacher = torch.tensor([[500.0, 0.0, -500.0], [500.0, 0.0, -500.0]])
    loss = Decoupled(temperature=1.0)(lesson(student, teacher, torch.tensor([0, 0])))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()


def test_decoupled_weighs_and_warms_up():
    student, teacher, targets = drawn(0, 4, 5), drawn(1, 4, 5), torch.tensor([0, 1, 2, 4])
    first, second = (part.mean() for part in decoupled_divergence(student, teacher, targets, 4.0))

    def found(progress, steps, warmup, warmup_steps):
        loss = Decoupled(4.0, alpha=0.5, beta=6, warmup=warmup, warmup_steps=warmup_steps, clip=None)
        return loss(lesson(student, teacher, targets, progress=progress, steps=steps))

    for progress, steps, warmup, least, grown in (
        (0.1, 100, 0.5, 0, 0.2),
        (0.1, 100, 0.5, 50, 0.2),
        (0.1, 100, 0.5, 80, 0.125),
        (1.0, 100, 0.5, 400, 0.25),
        (0.5, 100, 0.5, 0, 1.0),
        (1.0, 1000, 0.5, 500, 1.0),
        (0.01, 100, 0, 500, 1.0),
    ):
        expected = F.cross_entropy(student, targets) + grown * 16 * (0.5 * first + 6 * second)
        assert torch.allclose(found(progress, steps, warmup, least), expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.5, 20), st.floats(0, 3), st.floats(0, 10), st.integers(2, 7))
def test_the_pull_is_the_length_of_the_gradient(seed, temperature, alpha, beta, classes):
    student = drawn(seed, 4, classes).double().requires_grad_()
    teacher, target = drawn(seed + 1, 4, classes).double(), torch.arange(4) % classes
    first, second = decoupled_divergence(student, teacher, target, temperature)
    (temperature**2 * (alpha * first + beta * second)).sum().backward()
    found = pulls(student, teacher, target, temperature, alpha=alpha, beta=beta)
    assert torch.allclose(found, student.grad.norm(dim=1), rtol=1e-6, atol=1e-9)


def test_decoupled_pulls_no_harder_than_its_clip():
    targets = torch.tensor([0, 1, 2])
    teacher = drawn(1, 3, 5)
    student = torch.stack([drawn(2, 5), drawn(3, 5), teacher[2] + 0.01 * drawn(4, 5)]).requires_grad_()

    def gradients(clip):
        given = lesson(student, teacher, targets)
        whole = Decoupled(warmup=0, clip=clip)(given) - F.cross_entropy(student, targets)
        return 3 * torch.autograd.grad(whole, student)[0]

    free, clipped = gradients(None), gradients(1.5)
    assert free.norm(dim=1)[:2].min() > 1.5 > free.norm(dim=1)[2]
    assert clipped.norm(dim=1)[:2].tolist() == pytest.approx([1.5, 1.5], rel=1e-4)
    assert torch.allclose(clipped[2], free[2], atol=1e-5)
    directions = F.cosine_similarity(free, clipped)
    assert directions.tolist() == pytest.approx([1, 1, 1], rel=1e-4)


def test_decoupled_takes_each_of_mixed_targets_by_its_share():
    student, teacher = drawn(0, 2, 4), drawn(1, 2, 4)
    one, other = torch.tensor([0, 3]), torch.tensor([2, 3])
    mixed = 0.7 * F.one_hot(one, 4) + 0.3 * F.one_hot(other, 4)
    loss = Decoupled(warmup=0)
    apart = [loss(lesson(student, teacher, target)) for target in (one, other)]
    assert torch.allclose(loss(lesson(student, teacher, mixed)), 0.7 * apart[0] + 0.3 * apart[1])
    whole = F.one_hot(one, 4).float()
    assert torch.allclose(loss(lesson(student, teacher, whole)), apart[0])


def test_attention_of_a_known_map():
    features = torch.zeros(1, 2, 2, 2)
    features[0, :, 0, 0], features[0, :, 1, 1] = 3.0**0.5, 2.0  # mean squares 3 and 4
    assert torch.allclose(attention_map(features), torch.tensor([[0.6, 0.0, 0.0, 0.8]]))
    assert torch.allclose(attention_map(features.flatten(2).transpose(1, 2)), attention_map(features))


def test_attention_is_nothing_where_maps_are_alike():
    """Also at another width and strength: only where things happen counts."""
    student, teacher, targets = drawn(0, 4, 3), drawn(1, 4, 3), torch.tensor([0, 1, 2, 1])
    maps = drawn(2, 4, 3, 6, 6)
    strong = torch.cat([maps, -maps], dim=1) * 5
    found = Attention()(lesson(student, teacher, targets, features=((maps, strong),)))
    assert torch.allclose(found, F.cross_entropy(student, targets), atol=1e-6)
    other = drawn(3, 4, 5, 3, 3)
    more = Attention(weight=10)(lesson(student, teacher, targets, features=((maps, other), (maps, strong))))
    pooled = F.adaptive_avg_pool2d(maps, 3)
    difference = (attention_map(pooled) - attention_map(other)).square().mean()
    assert torch.allclose(more, F.cross_entropy(student, targets) + 10 * difference, atol=1e-6)


def test_hint_measures_what_the_regressor_misses():
    student, teacher, targets = drawn(0, 4, 3), drawn(1, 4, 3), torch.tensor([0, 1, 2, 1])
    ours, weight, scale, shift = drawn(2, 4, 2, 6, 6), drawn(3, 5, 2), drawn(4, 5), drawn(5, 5)
    plain = torch.einsum("oc,bchw->bohw", weight, ours)
    mean, std = plain.mean((0, 2, 3)), plain.std((0, 2, 3), correction=0)
    columns = (None, slice(None), None, None)
    theirs = (plain - mean[columns]) / std[columns] * scale[columns] + shift[columns]
    assert torch.allclose(regressed(ours, weight, scale, shift), theirs, atol=1e-4)
    own = {"0.weight": weight, "0.scale": scale, "0.shift": shift}
    exact = Hint()(lesson(student, teacher, targets, features=((ours, theirs),), own=own))
    assert torch.allclose(exact, F.cross_entropy(student, targets), atol=1e-4)
    off = Hint(weight=2)(lesson(student, teacher, targets, features=((ours, theirs + 3),), own=own))
    assert torch.allclose(off, F.cross_entropy(student, targets) + 2 * 9, atol=1e-3)
    tokens, as_tokens = (one.flatten(2).mT for one in (ours, theirs))
    assert torch.allclose(regressed(tokens, weight, scale, shift), as_tokens, atol=1e-4)


def test_hint_draws_its_regressors_by_a_seed_and_takes_the_middle_stage():
    stages = {"a": (4, 8, 8), "b": (6, 4, 4), "c": (8, 2, 2)}
    assert [pair.student for pair in Hint().pairs(stages, stages)] == ["b"]
    pairs = Hint(taps={"a": "c", "b": "b"}).pairs(stages, stages)
    assert pairs == (Pair("a", "c", (4, 8, 8), (8, 2, 2)), Pair("b", "b", (6, 4, 4), (6, 4, 4)))
    one, same, other = (Hint().parameters(pairs, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert {name: tuple(value.shape) for name, value in one.items()} == {
        "0.weight": (8, 4),
        "0.scale": (8,),
        "0.shift": (8,),
        "1.weight": (6, 6),
        "1.scale": (6,),
        "1.shift": (6,),
    }
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["0.weight"], other["0.weight"])
    assert bool((one["0.weight"].abs() <= 0.5).all())


@pytest.mark.parametrize("loss", [Hint, Attention])
def test_a_loss_of_answers_may_stand_beside(loss):
    student, teacher, targets = drawn(0, 4, 3), drawn(1, 4, 3), torch.tensor([0, 1, 2, 1])
    with_labels, with_answers = loss(), loss(beside=Logits(2.0))
    given = lesson(student, teacher, targets)
    assert torch.equal(with_labels(given), given.labelled)
    assert torch.equal(with_answers(given), Logits(2.0)(given))
    with pytest.raises(UsageError, match=r"compares answers \(have: decoupled, logits\), got 'attention'"):
        loss(beside=Attention())


@pytest.mark.parametrize(
    ("loss", "wrong", "message"),
    [
        (Logits, {"temperature": 0}, "temperature must be above 0, got 0"),
        (Logits, {"temperature": math.inf}, "temperature must be above 0, got inf"),
        (Logits, {"alpha": 1.5}, r"alpha is the teacher's share, in \[0, 1\], got 1.5"),
        (Decoupled, {"temperature": -1}, "temperature must be above 0"),
        (Decoupled, {"beta": -1}, "beta must be 0 or more, got -1"),
        (Decoupled, {"alpha": math.nan}, "alpha must be 0 or more, got nan"),
        (Decoupled, {"warmup_steps": -1}, "warmup_steps must be 0 or more, got -1"),
        (Decoupled, {"clip": 0}, "clip must be above 0, got 0"),
        (Decoupled, {"warmup": 20}, r"warmup is a share of the training, in \[0, 1\], got 20"),
        (Hint, {"weight": 0}, "weight must be above 0, got 0"),
        (Attention, {"weight": -2}, "weight must be above 0, got -2"),
    ],
)
def test_wrong_settings_are_refused(loss, wrong, message):
    with pytest.raises(UsageError, match=message):
        loss(**wrong)
