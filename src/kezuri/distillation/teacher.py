"""Who may teach: a model that knows more than chance."""

from torch import Tensor, nn

from kezuri.core.errors import UsageError
from kezuri.data import Part
from kezuri.train import evaluate
from kezuri.train.chance import chance_accuracy
from kezuri.train.device import Device

GLANCE = 500  # images that show whether a model knows anything
TRAIN = "train it first (a train step), or give its weights"
GENTLER = "try a lower lr, more epochs, or another loss"


def check_teacher(
    teacher: nn.Module, validation: Part, *, device: Device = "auto", called: str = "the teacher"
) -> float:
    """The accuracy of a model that is to teach, on the validation images, as a fraction.

    Raises:
        UsageError: it is no better than chance.
    """
    accuracy = evaluate(teacher, validation, device=device).accuracy
    check_knows(accuracy, validation.labels, called)
    return accuracy


def glance_at_teacher(
    teacher: nn.Module, validation: Part, *, device: Device = "auto", called: str = "the teacher"
) -> None:
    """`check_teacher` without its answer: a few of the images do where they show that the model knows more.

    Raises:
        UsageError: it is no better than chance on all of them.
    """
    few = validation.subset(min(GLANCE, len(validation)))
    if evaluate(teacher, few, device=device).accuracy <= chance_accuracy(few.labels)[1]:
        check_teacher(teacher, validation, device=device, called=called)


def learnt_nothing(accuracy: float, before: float, labels: Tensor) -> str | None:
    """What to say of a student that came out no better than chance, or worse than it was; None otherwise.

    Args:
        accuracy, before: the student's after and before it was taught, as fractions.
        labels: (N,) int64, of the validation images they were measured on.
    """
    if accuracy <= chance_accuracy(labels)[1]:
        return (
            f"the student learnt nothing: it is right on {accuracy:.2%} of {len(labels)} validation images, "
            f"no better than chance; {GENTLER}"
        )
    if accuracy < before:
        return f"the student got worse: it began at {before:.2%} and ended at {accuracy:.2%}; {GENTLER}"
    return None


def check_knows(accuracy: float, labels: Tensor, called: str, advice: str = TRAIN) -> None:
    """Refuses a model that is no better than chance as a teacher.

    Args:
        accuracy: the model's, as a fraction.
        labels: (N,) int64, of the validation images it was measured on.
        called: what to call the model.
        advice: what to do about it.

    Raises:
        UsageError: the accuracy is within three standard deviations of always answering the same class.
    """
    if accuracy <= chance_accuracy(labels)[1]:
        raise UsageError(
            f"{called} is right on {accuracy:.2%} of {len(labels)} validation images, no better than chance, "
            f"so it has nothing to teach: {advice}"
        )
