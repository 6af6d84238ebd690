"""The teacher's answers, softened."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from kezuri.core.errors import UsageError
from kezuri.distillation.loss import Lesson, Loss, check_positive, losses


def soft_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """How far the student's answers are from the teacher's: T² KL(teacher ‖ student), the mean of the images.

    The factor T² keeps the gradient's size about the same at every temperature (Hinton et al., 2015, section
    2.1): with respect to a logit it is T (p_student − p_teacher) / B.

    Args:
        student, teacher: logits, (B, classes), float32.
        temperature: what both are divided by; above 1 the wrong classes count more.
    """
    ours = F.log_softmax(student / temperature, dim=1)
    theirs = F.log_softmax(teacher / temperature, dim=1)
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


@losses.register("logits")
@dataclass(frozen=True)
class Logits(Loss):
    """The teacher's answers, softened by a temperature, mixed with the labels (Hinton et al., 2015).

    (1 − alpha) cross-entropy + alpha T² KL(teacher ‖ student).

    Attributes:
        temperature: what logits are divided by; 1 leaves them, 2 to 10 are usual.
        alpha: the teacher's share, in [0, 1]; the labels have the rest.
    """

    temperature: float = 4.0
    alpha: float = 0.9

    def __post_init__(self) -> None:
        check_positive(temperature=self.temperature)
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"alpha is the teacher's share, in [0, 1], got {self.alpha}")

    def __call__(self, lesson: Lesson) -> Tensor:
        soft = soft_divergence(lesson.student, lesson.teacher, self.temperature)
        return (1 - self.alpha) * lesson.labelled + self.alpha * soft
