"""A teacher for any training of a recipe: `distill: {loss: …, teacher: …}`."""

from dataclasses import dataclass, field

from torch import nn

from kezuri.core.errors import UsageError
from kezuri.distillation.distillation import Distillation
from kezuri.distillation.loss import Loss
from kezuri.distillation.losses.logits import Logits
from kezuri.distillation.teacher import check_teacher
from kezuri.recipe.model_choice import ModelChoice
from kezuri.recipe.step import Resources


@dataclass(frozen=True)
class Teaching:
    """How a teacher takes part in a training.

    Attributes:
        loss: how the model is compared with it.
        teacher: which model, with its weights; by default the dense one that the run's results are compared
            with, as it was before the first step that compresses.
    """

    loss: Loss = field(default_factory=Logits)
    teacher: ModelChoice | None = None

    def objective(self, resources: Resources) -> Distillation:
        """What the training makes small.

        Raises:
            UsageError: no teacher is named, and there is no dense model yet. The teacher is no better than
                chance; not asked in a rehearsal, before the steps that train it.
        """
        teacher = self.model(resources)
        if not resources.rehearsal:
            check_teacher(teacher, resources.data.validation, device=resources.device)
        return Distillation(teacher, self.loss)

    def model(self, resources: Resources) -> nn.Module:
        """The teacher, on the run's device; the run's dense model is not copied."""
        if self.teacher is not None:
            return resources.build(self.teacher).to(resources.device)
        if resources.dense is None:
            raise UsageError(
                "distill has no teacher: nothing was compressed before, so there is no dense model "
                "that could teach; name one, as teacher: {use: resnet56, weights: resnet56.pt}"
            )
        return resources.dense.model


def objective_of(teaching: Teaching | None, resources: Resources) -> Distillation | None:
    """The objective of a training with or without a teacher."""
    return None if teaching is None else teaching.objective(resources)
