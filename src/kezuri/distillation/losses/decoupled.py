"""The teacher's answers in two parts: how sure it is of the target, and what it thinks of the rest."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kezuri.core.errors import UsageError
from kezuri.distillation.loss import Lesson, Loss, check_positive, losses


def decoupled_divergence(
    student: Tensor, teacher: Tensor, target: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """The two parts of the divergence between student and teacher, of each image.

    With p the teacher's probability of the target, KL(teacher ‖ student) = first + (1 − p) second (Zhao et
    al., 2022, equation 6). Computed from logarithms throughout, so that no probability can round to zero.

    Args:
        student, teacher: logits, (B, classes), float32; at least two classes.
        target: (B,) int64, the class that counts as the target.
        temperature: what both are divided by.

    Returns:
        (B,) KL of target against all others together, and (B,) KL among the others alone; without T².
    """
    ours_binary, ours_rest = _split(student / temperature, target)
    theirs_binary, theirs_rest = _split(teacher / temperature, target)
    first = F.kl_div(ours_binary, theirs_binary, reduction="none", log_target=True).sum(1)
    second = F.kl_div(ours_rest, theirs_rest, reduction="none", log_target=True).sum(1)
    return first, second


def _split(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of target and not target, (B, 2), and of the others among themselves, (B, C − 1)."""
    others = torch.ones_like(logits, dtype=torch.bool).scatter_(1, target[:, None], False)
    rest = logits[others].view(len(logits), -1)
    whole = logits.logsumexp(1, keepdim=True)
    binary = torch.cat([logits.gather(1, target[:, None]), rest.logsumexp(1, keepdim=True)], dim=1) - whole
    return binary, F.log_softmax(rest, dim=1)


@losses.register("decoupled")
@dataclass(frozen=True)
class Decoupled(Loss):
    """How sure the teacher is, and its view of the other classes, weighed apart (Zhao et al., 2022).

    cross-entropy + T² (alpha KL(target, rest) + beta KL(among the rest)), the second growing from 0 to its
    full weight during the warm-up. Of mixed targets, each class counts as the target with its share.

    Attributes:
        temperature: what logits are divided by.
        alpha: weight of how sure the teacher is of the target.
        beta: weight of what it thinks of the others; 2 to 8 in the paper, more for surer teachers.
        warmup: share of the training during which the teacher's weight grows, in [0, 1]; the paper has 20 of
            240 epochs.
    """

    temperature: float = 4.0
    alpha: float = 1.0
    beta: float = 8.0
    warmup: float = 1 / 12

    def __post_init__(self) -> None:
        check_positive(temperature=self.temperature)
        for name in ("alpha", "beta"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.warmup <= 1:
            raise UsageError(f"warmup is a share of the training, in [0, 1], got {self.warmup}")

    def __call__(self, lesson: Lesson) -> Tensor:
        if lesson.targets.is_floating_point():
            classes = int((lesson.targets > 0).sum(1).max())
            shares, targets = lesson.targets.topk(classes, dim=1)
        else:
            shares, targets = torch.ones_like(lesson.targets[:, None]).float(), lesson.targets[:, None]
        soft = lesson.student.new_zeros(())
        for share, target in zip(shares.unbind(1), targets.unbind(1), strict=True):
            first, second = decoupled_divergence(lesson.student, lesson.teacher, target, self.temperature)
            soft = soft + (share * (self.alpha * first + self.beta * second)).mean()
        grown = min(1.0, lesson.progress / self.warmup) if self.warmup else 1.0
        return lesson.labelled + grown * self.temperature**2 * soft
