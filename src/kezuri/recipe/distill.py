"""One call: a student, its teacher and data in, the student taught, through assistants if there are any."""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

import kezuri.distillation  # noqa: F401  registers the losses
from kezuri.core.errors import KezuriWarning, ModelError, UsageError
from kezuri.core.progress import Progress
from kezuri.core.seeds import derive
from kezuri.data import Data, from_dataset
from kezuri.distillation.assistant import (
    Choice,
    Pupil,
    check_neighbours,
    check_sizes,
    choose_assistant,
    larger_student,
    teach_in_turn,
)
from kezuri.distillation.loss import Loss, losses
from kezuri.distillation.teacher import check_teacher, learnt_nothing
from kezuri.model.load import check_fits
from kezuri.train import Fitted, Hook, Training, evaluate
from kezuri.train.device import Device
from kezuri.train.lending import to_train

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
        teacher: a trained module, larger than the student; it is left as it is.
        data: a `Data`, or a dataset that yields (image, label), of which a tenth is held out to choose by.
        training: of the student, and of each assistant.
        loss: how student and teacher are compared: `logits`, `decoupled`, `hint`, `attention`, or one of them
            with its settings, as `kezuri.distill` has them.
        assistants: untrained modules between the two, from the largest; each is trained in place by the one
            before it (Mirzadeh et al., 2020).
        candidates: instead of assistants, functions that build one, by name. Each is trained alone, and so
            is a copy of the student; the one nearest the mean accuracy of student and teacher assists. A
            single one assists without that.
        hooks: called while the student is trained, such as `masks.hold()`.
        checkpoint: a folder of this call's own; the same call goes on from it.

    Raises:
        UnknownName: there is no such loss.
        UsageError: the models share weights, the loss finds nothing to compare, assistants do not stand
            between teacher and student, or who is to teach is no better than chance.
        ModelError: one does not take the images, or has other classes.
        KezuriError: as `fit`. Of all these, only training that fails, or leaves an assistant no better than
            chance, is found out after the first model was trained.

    A KezuriWarning says so where the student learns nothing, or is larger than its teacher.
    """
    compared: Loss = losses[loss]() if isinstance(loss, str) else loss
    if candidates is not None and assistants:
        raise UsageError("give assistants, or candidates to choose one among, not both")
    known = data if isinstance(data, Data) else from_dataset(data)
    built = {} if candidates is None else _built(candidates)
    between = [{f"assistant {number}": model for number, model in enumerate(assistants, start=1)}]
    if candidates is not None:
        between = [{f"candidate {name!r}": model} for name, model in built.items()]
    for chain in between:
        _check({"the teacher": teacher, **chain, "the student": student}, known, compared, device)
    taught = check_teacher(teacher, known.validation, device=device)
    if said := larger_student(teacher, student):
        warnings.warn(said, KezuriWarning, stacklevel=2)
    settings: dict[str, Any] = {"device": device, "checkpoint": checkpoint, "progress": progress}
    choice = None
    if len(built) > 1:
        alone, own = copy.deepcopy(student), derive(seed, "assistant")
        choice = choose_assistant(built, alone, teacher, known, training, seed=own, **settings)
    if candidates is not None:
        assistants = (candidates[next(iter(built)) if choice is None else choice.name](),)
    before = evaluate(student, known.validation, device=device).accuracy
    pupils = [Pupil(model, compared) for model in (*assistants, student)]
    fitted = teach_in_turn(teacher, pupils, known, training, seed=seed, hooks=hooks, **settings)
    if said := learnt_nothing(fitted[-1].best_accuracy, before, known.validation.labels):
        warnings.warn(said, KezuriWarning, stacklevel=2)
    return Distilled(student, fitted[-1], taught, tuple(zip(assistants, fitted, strict=False)), choice)


def _built(candidates: Mapping[str, Callable[[], nn.Module]]) -> dict[str, nn.Module]:
    """The candidates.

    Raises:
        UsageError: there is none, or one is no function.
    """
    if not candidates:
        raise UsageError("there are no candidates to choose an assistant from")
    for name, build in candidates.items():
        if isinstance(build, nn.Module) or not callable(build):
            raise UsageError(
                f"candidate {name!r} must be a function that builds a model, as the one that is chosen is "
                f"built anew; got a {type(build).__name__}"
            )
    return {name: build() for name, build in candidates.items()}


def _check(chain: Mapping[str, nn.Module], data: Data, loss: Loss, device: Device) -> None:
    """Tries everything that needs no training.

    Args:
        chain: teacher, assistants and student, by what to call them.
    """
    for called, model in chain.items():
        if not isinstance(model, nn.Module):
            raise UsageError(f"{called} must be a PyTorch module, got {type(model).__name__}")
        try:
            check_fits(model, data.image_shape, len(data.classes))
        except ModelError as error:
            raise ModelError(f"{called}: {error}") from error
    teacher, *others = chain.values()
    for model in others:
        to_train(model)
    check_neighbours(teacher, [Pupil(model, loss) for model in others], data, device)
    check_sizes(teacher, dict([*chain.items()][1:-1]), others[-1])
