"""The role of a distillation loss: how far is the student from its teacher?

A loss sees what student and teacher made of the same images and gives the whole scalar that training makes
small, labels included. Most compare answers; some compare features, which `tap.py` gathers for them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import Parameter

from kezuri.core.errors import UsageError
from kezuri.core.registry import Registry
from kezuri.distillation.tap import Pair, Sizes


@dataclass(frozen=True)
class Lesson:
    """What a student and its teacher made of one batch.

    Attributes:
        targets: (B,) int64 class numbers, or (B, classes) probabilities after mixup or cutmix.
        student, teacher: their logits, (B, classes), float32.
        labelled: the student's cross-entropy with the targets, a scalar in nats.
        features: of each tap the student's and the teacher's, (B, C, H, W) or (B, tokens, C).
        own: the loss's own parameters, by name.
        progress: how much of the training is behind after this step, (0, 1].
        steps: of the whole training.
    """

    targets: Tensor
    student: Tensor
    teacher: Tensor
    labelled: Tensor
    features: tuple[tuple[Tensor, Tensor], ...] = ()
    own: Mapping[str, Tensor] = field(default_factory=dict)
    progress: float = 1.0
    steps: int = 1


class Loss(Protocol):
    """Compares a student with its teacher."""

    looks_inside: ClassVar[bool] = False
    """Whether it compares features, not only answers."""

    def __call__(self, lesson: Lesson) -> Tensor:
        """The scalar to make small, float32; gradients flow to the student's tensors and its own."""
        ...

    def pairs(self, student: Sizes, teacher: Sizes) -> tuple[Pair, ...]:  # noqa: ARG002 (for those that do)
        """Which features it looks at, of those there are.

        Raises:
            UsageError: there are none such.
        """
        return ()

    def parameters(
        self,
        pairs: Sequence[Pair],  # noqa: ARG002 (for those that do)
        generator: torch.Generator,  # noqa: ARG002
    ) -> dict[str, Parameter]:
        """Parameters of its own that are trained along, freshly drawn, on the CPU."""
        return {}


losses: Registry[type[Loss]] = Registry("distillation loss")


def check_positive(**values: float) -> None:
    """Refuses numbers that are not above 0 and finite.

    Raises:
        UsageError: one is not.
    """
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise UsageError(f"{name} must be above 0, got {value}")


def check_beside(beside: Loss | None) -> None:
    """Refuses a second loss that looks inside: two of them would each want taps of their own.

    Raises:
        UsageError: it does.
    """
    if beside is not None and beside.looks_inside:
        have = ", ".join(sorted(name for name, member in losses.items() if not member.looks_inside))
        raise UsageError(
            f"beside is a loss that compares answers (have: {have}), got {losses.name_of(beside)!r}"
        )
