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


@torch.no_grad()
def pulls(
    student: Tensor, teacher: Tensor, target: Tensor, temperature: float, *, alpha: float, beta: float
) -> Tensor:
    """How strongly each image's T² (alpha first + beta second) pulls at its logits: the gradient's length.

    Args:
        student, teacher, target, temperature: as for `decoupled_divergence`.
        alpha, beta: weights of its two parts.

    Returns:
        (B,); for comparison, the labels' cross-entropy pulls with the square root of 2 at most.
    """
    ours_binary, ours_rest = _split(student / temperature, target)
    theirs_binary, theirs_rest = _split(teacher / temperature, target)
    surer = alpha * (ours_binary[:, :1].exp() - theirs_binary[:, :1].exp())
    others = beta * (ours_rest.exp() - theirs_rest.exp()) - surer * ours_rest.exp()
    length: Tensor = torch.cat([surer, others], dim=1).norm(dim=1)
    return temperature * length


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

    With T² beta the second part weighs 128 times as much as the labels, which networks without normalisation
    do not survive at usual learning rates. Unlike in the paper, the warm-up therefore has a least length, and
    the teacher pulls at no image much harder than a label may.

    Attributes:
        temperature: what logits are divided by.
        alpha: weight of how sure the teacher is of the target.
        beta: weight of what it thinks of the others; 2 to 8 in the paper, more for surer teachers.
        warmup: share of the training during which the teacher's weight grows, in [0, 1]; the paper has 20 of
            240 epochs. 0 gives it its full weight at once.
        warmup_steps: how many steps the warm-up takes at least; a shorter training ends within it.
        clip: the longest gradient that the teacher's part of an image has with respect to its logits; that
            of the labels is the square root of 2 at most. None leaves it as it is.
    """

    temperature: float = 4.0
    alpha: float = 1.0
    beta: float = 8.0
    warmup: float = 1 / 12
    warmup_steps: int = 500
    clip: float | None = 1.5

    def __post_init__(self) -> None:
        check_positive(temperature=self.temperature)
        if self.clip is not None:
            check_positive(clip=self.clip)
        for name in ("alpha", "beta"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.warmup <= 1:
            raise UsageError(f"warmup is a share of the training, in [0, 1], got {self.warmup}")
        if self.warmup_steps < 0:
            raise UsageError(f"warmup_steps must be 0 or more, got {self.warmup_steps}")

    def __call__(self, lesson: Lesson) -> Tensor:
        if lesson.targets.is_floating_point():
            classes = int((lesson.targets > 0).sum(1).max())
            shares, targets = lesson.targets.topk(classes, dim=1)
        else:
            shares, targets = torch.ones_like(lesson.targets[:, None]).float(), lesson.targets[:, None]
        soft = lesson.student.new_zeros(())
        for share, target in zip(shares.unbind(1), targets.unbind(1), strict=True):
            soft = soft + (share * self._clipped(lesson.student, lesson.teacher, target)).mean()
        return lesson.labelled + self._grown(lesson) * self.temperature**2 * soft

    def _clipped(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        """Both parts of each image, (B,), weighed down where they would pull too hard."""
        given = student, teacher, target, self.temperature
        first, second = decoupled_divergence(*given)
        both = self.alpha * first + self.beta * second
        if self.clip is None:
            return both
        strength = pulls(*given, alpha=self.alpha, beta=self.beta)
        return both * (self.clip / strength.clamp(min=self.clip))

    def _grown(self, lesson: Lesson) -> float:
        """The share of its full weight that the teacher has by now."""
        if not self.warmup:
            return 1.0
        return min(1.0, lesson.progress / max(self.warmup, self.warmup_steps / lesson.steps))
