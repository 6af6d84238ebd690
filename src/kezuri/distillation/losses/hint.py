"""The teacher's features, as a hint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Parameter

from kezuri.distillation.loss import Lesson, Loss, check_beside, check_positive, losses
from kezuri.distillation.tap import Pair, Sizes, channels, matched, same_positions


@losses.register("hint")
@dataclass(frozen=True)
class Hint(Loss):
    """Has the student's features predict the teacher's (FitNets, Romero et al., 2015).

    cross-entropy + weight · the mean squared error of a 1x1 convolution's guess, in one training and not in
    two stages. The larger of two maps is averaged to the size of the smaller. The convolution is trained
    along and thrown away; it is normalised by the batch, or it would diverge at usual learning rates.

    Attributes:
        weight: of the error; 100 is usual.
        taps: by name or pattern of the student's features, the teacher's. By default the middle one of the
            stages they share.
        beside: a loss of the answers to add to instead of the cross-entropy.
    """

    looks_inside: ClassVar[bool] = True

    weight: float = 100.0
    taps: Mapping[str, str] | None = None
    beside: Loss | None = None

    def __post_init__(self) -> None:
        check_positive(weight=self.weight)
        check_beside(self.beside)

    def pairs(self, student: Sizes, teacher: Sizes) -> tuple[Pair, ...]:
        """Those named, or the middle stage."""
        found = matched(student, teacher, self.taps)
        return found if self.taps is not None else (found[len(found) // 2],)

    def parameters(self, pairs: Sequence[Pair], generator: torch.Generator) -> dict[str, Parameter]:
        """Of each regressor the convolution, drawn as torch draws one, and what it is scaled by."""
        drawn = {}
        for number, pair in enumerate(pairs):
            inputs, outputs = channels(pair.student_size), channels(pair.teacher_size)
            bound = inputs**-0.5
            weight = torch.empty(outputs, inputs).uniform_(-bound, bound, generator=generator)
            drawn[f"{number}.weight"] = Parameter(weight)
            drawn[f"{number}.scale"] = Parameter(torch.ones(outputs))
            drawn[f"{number}.shift"] = Parameter(torch.zeros(outputs))
        return drawn

    def __call__(self, lesson: Lesson) -> Tensor:
        total = lesson.labelled if self.beside is None else self.beside(lesson)
        for number, (ours, theirs) in enumerate(lesson.features):
            ours, theirs = same_positions(ours, theirs)
            own = (lesson.own[f"{number}.{name}"] for name in ("weight", "scale", "shift"))
            total = total + self.weight * F.mse_loss(regressed(ours, *own), theirs)
        return total


def regressed(features: Tensor, weight: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """A linear map of the channels at each position, normalised over the batch and its positions.

    Args:
        features: (B, C, H, W) or (B, tokens, C).
        weight: (outputs, C).
        scale, shift: (outputs,), standard deviation and mean of what comes out.
    """
    if features.dim() == 3:
        return regressed(features.mT[:, :, None], weight, scale, shift)[:, :, 0].mT
    guess = F.conv2d(features, weight[:, :, None, None])
    return F.batch_norm(guess, None, None, scale, shift, training=True)
