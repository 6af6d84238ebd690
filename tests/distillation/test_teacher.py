import pytest
import torch
from torch import nn

from kezuri.core.errors import UsageError
from kezuri.data import from_tensors
from kezuri.distillation.teacher import check_teacher, glance_at_teacher, learnt_nothing
from kezuri.train.chance import chance_accuracy


class Reads(nn.Module):
    """Answers what is written in the first pixel, for a share of the images; 0 for the others."""

    def __init__(self, right):
        super().__init__()
        self.right = right

    def forward(self, images):
        first, chance = images[:, 0, 0, 0], images[:, 0, 0, 1]
        answers = torch.where(chance < self.right, first, 0)
        return torch.eye(10)[answers.long()]


@pytest.fixture(scope="module")
def part():
    labels = torch.arange(4000) % 10
    images = torch.zeros(4000, 1, 2, 2)
    images[:, 0, 0, 0] = labels
    images[:, 0, 0, 1] = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    return from_tensors((images, labels), validation=2000, normalize=((0.0,), (1.0,))).validation


def test_a_teacher_knows_more_than_chance(part):
    assert check_teacher(Reads(1), part) == 1
    glance_at_teacher(Reads(1), part)
    for look in (check_teacher, glance_at_teacher):
        with pytest.raises(UsageError, match=r"^the big one is right on 10.00% of 2000 .*no better than ch"):
            look(Reads(0), part, called="the big one")


def test_a_glance_that_shows_nothing_is_followed_by_a_look_at_all(part):
    knows = Reads(0.03)
    accuracy = check_teacher(knows, part)
    assert chance_accuracy(part.labels)[1] < accuracy < chance_accuracy(part.subset(500).labels)[1]
    glance_at_teacher(knows, part)


def test_a_student_that_learnt_nothing_or_got_worse_is_told_of(part):
    assert learnt_nothing(0.9, 0.1, part.labels) is None and learnt_nothing(0.9, 0.9, part.labels) is None
    assert "is right on 10.00% of 2000 validation images, no better" in learnt_nothing(0.1, 0.1, part.labels)
    assert "it began at 80.00% and ended at 70.00%; try a lower lr" in learnt_nothing(0.7, 0.8, part.labels)
