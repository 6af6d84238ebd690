"""Training a student by a teacher: the objective that runs both and asks a loss how far apart they are."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from kezuri.core.errors import UsageError
from kezuri.core.seeds import derive
from kezuri.data import Batch
from kezuri.distillation.loss import Lesson, Loss
from kezuri.distillation.losses.logits import Logits
from kezuri.distillation.tap import Pair, Tapped, features, tapped
from kezuri.model.modes import evaluating
from kezuri.train.lending import lent
from kezuri.train.loop import answer
from kezuri.train.losses import cross_entropy
from kezuri.train.objective import Objective, Start


@dataclass(frozen=True)
class _Classroom:
    """What is there for the time of one training."""

    start: Start
    own: dict[str, Parameter]
    steps: int
    student: Tapped
    teacher: Tapped


@dataclass(eq=False)
class Distillation(Objective):
    """Trains a model to answer as a teacher does: `fit(student, …, objective=Distillation(teacher))`.

    The teacher sees the same images as the student, augmented alike, in evaluation mode and in the
    training's number format, without gradients. Afterwards it is as it was; its weights count as a setting
    of the training, so that a checkpoint made with another teacher is refused.

    Attributes:
        teacher: a model with as many answers as the student.
        loss: how the two are compared.
    """

    teacher: nn.Module
    loss: Loss = field(default_factory=Logits)

    def __post_init__(self) -> None:
        self._classroom: _Classroom | None = None

    def pairs(self, student: nn.Module, images: Tensor) -> tuple[Pair, ...]:
        """The features that the loss compares; the models are on one device, and are left as they are.

        Raises:
            UsageError: the teacher is the student or shares weights with it, they give different numbers of
                answers, or there are no such features.
        """
        shared = {id(one) for one in student.parameters()} & {id(one) for one in self.teacher.parameters()}
        if shared or student is self.teacher:
            raise UsageError(
                f"teacher and student share {len(shared)} parameters, so the teacher would change with the "
                f"student; teach with a copy (copy.deepcopy)"
            )
        with torch.no_grad(), evaluating(student), evaluating(self.teacher):
            answers = [tuple(model(images).shape) for model in (student, self.teacher)]
        if answers[0] != answers[1]:
            raise UsageError(
                f"for {len(images)} images the student answers {answers[0]} and the teacher {answers[1]}; "
                f"they need the same classes"
            )
        if not self.loss.looks_inside:
            return ()
        return self.loss.pairs(features(student, images), features(self.teacher, images))

    @contextmanager
    def begun(self, model: nn.Module, start: Start) -> Iterator[None]:
        """Lends the teacher to the student's device, opens the taps and draws the loss's own parameters."""
        device = start.images.device
        with ExitStack() as stack:
            stack.enter_context(lent(self.teacher, device))
            pairs = self.pairs(model, start.images)
            self.teacher.eval()
            generator = torch.Generator().manual_seed(derive(start.seed, "distillation"))
            own = self.loss.parameters(pairs, generator)
            for parameter in own.values():
                parameter.data = parameter.data.to(device)
            self._classroom = _Classroom(
                start,
                own,
                max(1, round(start.training.epochs * start.epoch_steps)),
                stack.enter_context(tapped(model, [pair.student for pair in pairs])),
                stack.enter_context(tapped(self.teacher, [pair.teacher for pair in pairs])),
            )
            try:
                yield
            finally:
                self._classroom = None

    def __call__(self, model: nn.Module, batch: Batch, logits: Tensor, step: int) -> Tensor:  # noqa: ARG002
        """The loss of a batch the student has just answered."""
        room = self._begun()
        with torch.no_grad():
            taught = answer(self.teacher, batch.images, room.start.dtype)
        lesson = Lesson(
            targets=batch.targets,
            student=logits.float(),
            teacher=taught.float(),
            labelled=cross_entropy(
                logits, batch.targets, label_smoothing=room.start.training.label_smoothing
            ),
            features=tuple(zip(room.student.take(), room.teacher.take(), strict=True)),
            own=room.own,
            progress=min(1.0, (step + 1) / room.steps),
            steps=room.steps,
        )
        return self.loss(lesson)

    def tensors(self) -> Mapping[str, Tensor]:
        """The loss's own parameters, such as the regressors of hints."""
        return self._begun().own

    def _begun(self) -> _Classroom:
        if self._classroom is None:
            raise UsageError("a Distillation works inside fit(…, objective=…), or once `begun` is entered")
        return self._classroom
