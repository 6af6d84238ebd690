"""One call: a student, its teacher and data in, the student taught, through assistants if there are any."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

import kezuri.distillation  # noqa: F401  registers the losses
from kezuri.core.errors import UsageError
from kezuri.core.progress import Progress
from kezuri.core.seeds import derive
from kezuri.data import Data, from_dataset
from kezuri.distillation.assistant import Choice, Pupil, choose_assistant, teach_in_turn
from kezuri.distillation.loss import Loss, losses
from kezuri.train import Fitted, Hook, Training, evaluate
from kezuri.train.device import Device

TRAINING = Training()


@dataclass(frozen=True, eq=False)
class Distilled:
    """What `distill` gives back; printing it says how good each model is.

    Attributes:
        student: the given module, trained.
        fitted: how its training went.
        teacher_accuracy: on the validation images, as a fraction.
        assistants: that taught it in turn, from the largest, with how their training went.
        choice: how the assistant was chosen, where it was.
    """

    student: nn.Module
    fitted: Fitted
    teacher_accuracy: float
    assistants: tuple[tuple[nn.Module, Fitted], ...] = ()
    choice: Choice | None = None

    @property
    def accuracy(self) -> float:
        """The student's on the validation images, as a fraction."""
        return self.fitted.best_accuracy

    def __str__(self) -> str:
        taught = "".join(f", assistant {fitted.best_accuracy:.2%}" for _, fitted in self.assistants)
        return f"student {self.accuracy:.2%} (teacher {self.teacher_accuracy:.2%}{taught})"


def distill(
    student: nn.Module,
    teacher: nn.Module,
    data: Data | Dataset[Any],
    training: Training = TRAINING,
    *,
    loss: str | Loss = "logits",
    assistants: Sequence[nn.Module] = (),
    candidates: Mapping[str, Callable[[], nn.Module]] | None = None,
    hooks: Sequence[Hook] = (),
    seed: int = 0,
    device: Device = "auto",
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Distilled:
    """Trains a student, in place, to answer as its teacher does (Hinton et al., 2015).

    Args:
        student: a module with as many answers as the teacher; it may be trained already, cut or masked.
        teacher: a trained module; it is left as it is.
        data: a `Data`, or a dataset that yields (image, label), of which a tenth is held out to choose by.
        training: of the student, and of each assistant.
        loss: how student and teacher are compared: `logits`, `decoupled`, `hint`, `attention`, or one of them
            with its settings, as `kezuri.distill` has them.
        assistants: untrained modules between the two, from the largest; each is trained in place by the one
            before it (Mirzadeh et al., 2020).
        candidates: instead of assistants, functions that build one, by name. Each is trained alone, and so
            is a copy of the student; the one nearest the mean accuracy of student and teacher assists.
        hooks: called while the student is trained, such as `masks.hold()`.
        checkpoint: a folder of this call's own; the same call goes on from it.

    Raises:
        UnknownName: there is no such loss.
        UsageError: the models share weights, have different classes, or nothing the loss could compare.
        KezuriError: as `fit`.
    """
    compared: Loss = losses[loss]() if isinstance(loss, str) else loss
    if candidates is not None and assistants:
        raise UsageError("give assistants, or candidates to choose one among, not both")
    known = data if isinstance(data, Data) else from_dataset(data)
    settings: dict[str, Any] = {"device": device, "checkpoint": checkpoint, "progress": progress}
    choice = None
    if candidates is not None:
        choice = choose_assistant(
            {name: build() for name, build in candidates.items()},
            copy.deepcopy(student),
            teacher,
            known,
            training,
            seed=derive(seed, "assistant"),
            **settings,
        )
        assistants = (candidates[choice.name](),)
    taught = evaluate(teacher, known.validation, device=device).accuracy
    pupils = [Pupil(model, compared) for model in (*assistants, student)]
    fitted = teach_in_turn(teacher, pupils, known, training, seed=seed, hooks=hooks, **settings)
    return Distilled(student, fitted[-1], taught, tuple(zip(assistants, fitted, strict=False)), choice)
