"""Teacher assistants: where the student is far smaller than its teacher, a model between them teaches it.

The teacher teaches the assistant and the assistant the student (Mirzadeh et al., "Improved Knowledge
Distillation via Teacher Assistant", 2020); with several assistants each learns from the one before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from kezuri.core.errors import UsageError
from kezuri.core.progress import Progress
from kezuri.core.seeds import derive
from kezuri.data import Data
from kezuri.distillation.distillation import Distillation
from kezuri.distillation.loss import Loss
from kezuri.distillation.losses.logits import Logits
from kezuri.distillation.teacher import GENTLER, check_knows
from kezuri.train import Fitted, Hook, Training, evaluate, fit
from kezuri.train.device import Device, choose_device
from kezuri.train.lending import lent

FAMILIES = (("resnet8", "resnet20", "resnet32", "resnet44", "resnet56"),)
"""Models of the zoo that differ in depth only, from the smallest."""


@dataclass(frozen=True, eq=False)
class Pupil:
    """A model that is to learn, and how.

    Attributes:
        model: is trained in place.
        loss: how it is compared with its teacher.
    """

    model: nn.Module
    loss: Loss = field(default_factory=Logits)


@dataclass(frozen=True)
class Choice:
    """Which assistant was chosen, and by what.

    Attributes:
        name: of the one chosen.
        accuracies: of all candidates when trained alone, on the validation images, as fractions.
        student, teacher: of the student trained alone, and of the teacher.
    """

    name: str
    accuracies: Mapping[str, float]
    student: float
    teacher: float


def between(student: str, teacher: str) -> tuple[str, ...]:
    """The models of the zoo that are larger than the student and smaller than the teacher, of their family.

    Raises:
        UsageError: they are not of one family, or there is none between them.
    """
    for family in FAMILIES:
        if student in family and teacher in family:
            found = family[family.index(student) + 1 : family.index(teacher)]
            if found:
                return found
            raise UsageError(
                f"there is no assistant between {student} and {teacher}: the family is {', '.join(family)}"
            )
    known = "; ".join(", ".join(family) for family in FAMILIES)
    raise UsageError(
        f"no assistants are known between {student} and {teacher} (known: those between two of {known}); "
        f"name candidates, from the smallest"
    )


def nearest_to_mean(accuracies: Mapping[str, float], *, student: float, teacher: float) -> str:
    """The candidate whose accuracy is nearest the mean of student and teacher; of equals, the first.

    Source: Mirzadeh et al., 2020, section "The Best Teacher Assistant Size".

    Args:
        accuracies: of the candidates when trained alone, by name.
        student: of the student when trained alone.
        teacher: of the teacher.

    Raises:
        UsageError: there is no candidate.
    """
    if not accuracies:
        raise UsageError("there are no candidates to choose an assistant from")
    mean = (student + teacher) / 2
    return min(accuracies, key=lambda name: abs(accuracies[name] - mean))


def check_sizes(
    teacher: nn.Module, assistants: Mapping[str, nn.Module], student: nn.Module | None = None
) -> None:
    """Refuses assistants that do not stand between teacher and student, each smaller than the one before.

    Args:
        assistants: from the largest, by what to call them.
        student: None where it is not known how small it will be.

    Raises:
        UsageError: one has not fewer parameters than what teaches it, or not more than the student.
    """
    above, most = "the teacher", _count(teacher)
    for name, model in assistants.items():
        count = _count(model)
        if count >= most:
            raise UsageError(
                f"{name} has {count:,} parameters and {above}, which is to teach it, {most:,}: name "
                f"assistants smaller than the teacher, from the largest, each once"
            )
        above, most = name, count
    if assistants and student is not None and most <= (count := _count(student)):
        raise UsageError(
            f"{above} has {most:,} parameters and the student, which it is to teach, {count:,}: an assistant "
            f"stands between teacher and student"
        )


def larger_student(teacher: nn.Module, student: nn.Module) -> str | None:
    """What to say where the student is not smaller than its teacher; None where it is."""
    ours, theirs = _count(student), _count(teacher)
    if ours <= theirs:
        return None
    return (
        f"the student has {ours:,} parameters and its teacher {theirs:,}: this makes nothing smaller (it is "
        f"done to gain accuracy only)"
    )


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def choose_assistant(
    candidates: Mapping[str, nn.Module],
    student: nn.Module,
    teacher: nn.Module,
    data: Data,
    training: Training,
    *,
    seed: int,
    device: Device = "auto",
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Choice:
    """Trains the student and each candidate alone, and takes the candidate halfway to the teacher.

    Args:
        candidates: untrained, by name; they are trained in place and of no use afterwards.
        student: untrained; it is trained in place, too, so give a copy.
        teacher: trained; it is only evaluated.
        training: the shorter, the more the choice leans to large candidates, as the teacher is trained fully.
        checkpoint: a folder for the progress of all these trainings.

    Raises:
        KezuriError: as `fit`.
    """
    if not candidates:
        raise UsageError("there are no candidates to choose an assistant from")
    alone = {}
    for number, model in enumerate((student, *candidates.values())):
        alone[number] = fit(
            model,
            data,
            training,
            seed=derive(seed, "alone", number),
            device=device,
            checkpoint=None if checkpoint is None else checkpoint / f"alone-{number}",
            progress=progress,
        ).best_accuracy
    accuracies = {name: alone[number] for number, name in enumerate(candidates, start=1)}
    taught = evaluate(teacher, data.validation, device=device).accuracy
    name = nearest_to_mean(accuracies, student=alone[0], teacher=taught)
    return Choice(name, accuracies, alone[0], taught)


def teach_in_turn(
    teacher: nn.Module,
    pupils: Sequence[Pupil],
    data: Data,
    training: Training,
    *,
    seed: int,
    device: Device = "auto",
    hooks: Sequence[Hook] = (),
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> list[Fitted]:
    """Has the first learn from the teacher, each other from the one before; all in place.

    The last, the student, is trained as it would be without assistants, from the same random numbers.

    Args:
        teacher: trained; it stays as it is.
        pupils: the assistants from the largest, then the student.
        training: of each.
        hooks: called while the student is trained.
        checkpoint: a folder for the progress of the whole chain; the same call goes on from it.

    Raises:
        UsageError: two neighbours do not fit; found out before the first is trained. An assistant has learnt
            nothing, and so has nothing to teach.
        KezuriError: as `fit`.
    """
    check_neighbours(teacher, pupils, data, device)
    fitted: list[Fitted] = []
    for number, pupil in enumerate(pupils, start=1):
        last = number == len(pupils)
        if fitted:
            labels = data.validation.labels
            check_knows(fitted[-1].best_accuracy, labels, f"assistant {number - 1}", GENTLER)
        fitted.append(
            fit(
                pupil.model,
                data,
                training,
                seed=seed if last else derive(seed, "assistant", number),
                device=device,
                hooks=hooks if last else (),
                checkpoint=None if checkpoint is None else checkpoint / ("student" if last else str(number)),
                progress=progress,
                objective=Distillation(teacher, pupil.loss),
            )
        )
        teacher = pupil.model
    return fitted


def check_neighbours(
    teacher: nn.Module, pupils: Sequence[Pupil], data: Data, device: Device = "auto"
) -> None:
    """Tries who teaches whom; all models are left as they are.

    Raises:
        UsageError: two neighbours do not fit, or the loss finds nothing to compare.
    """
    where = choose_device(device)
    images = torch.zeros(2, *data.image_shape, device=where)
    for pupil in pupils:
        with lent(teacher, where), lent(pupil.model, where):
            Distillation(teacher, pupil.loss).pairs(pupil.model, images)
        teacher = pupil.model
