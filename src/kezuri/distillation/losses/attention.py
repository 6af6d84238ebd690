"""Where the teacher looks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from kezuri.distillation.loss import Lesson, Loss, check_beside, check_positive, losses
from kezuri.distillation.tap import Pair, Sizes, matched, same_positions


def attention_map(features: Tensor) -> Tensor:
    """How much happens at each position, (B, positions): the mean square of the channels, of length 1.

    Args:
        features: (B, C, H, W) or (B, tokens, C).
    """
    channel = 1 if features.dim() == 4 else 2
    return F.normalize(features.square().mean(channel).flatten(1), dim=1)


@losses.register("attention")
@dataclass(frozen=True)
class Attention(Loss):
    """Has the student look where the teacher looks (Zagoruyko and Komodakis, 2017).

    cross-entropy + weight · the sum over stages of the mean squared difference of the attention maps. Widths
    need not agree; the larger of two maps is averaged to the size of the smaller first.

    Attributes:
        weight: of the difference; 1000 is usual.
        taps: by name or pattern of the student's features, the teacher's. By default all stages they share.
        beside: a loss of the answers to add to instead of the cross-entropy.
    """

    looks_inside: ClassVar[bool] = True

    weight: float = 1000.0
    taps: Mapping[str, str] | None = None
    beside: Loss | None = None

    def __post_init__(self) -> None:
        check_positive(weight=self.weight)
        check_beside(self.beside)

    def pairs(self, student: Sizes, teacher: Sizes) -> tuple[Pair, ...]:
        """Those named, or all stages."""
        return matched(student, teacher, self.taps)

    def __call__(self, lesson: Lesson) -> Tensor:
        total = lesson.labelled if self.beside is None else self.beside(lesson)
        for ours, theirs in lesson.features:
            ours, theirs = same_positions(ours, theirs)
            total = total + self.weight * F.mse_loss(attention_map(ours), attention_map(theirs))
        return total
