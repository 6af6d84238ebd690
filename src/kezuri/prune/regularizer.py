"""The role of a regularizer: what makes channels fade in training, so that cutting them costs little?

It adds to the gradients of each step, as a training hook: in a recipe by the option `regularizer` of the
`train` step, in Python by `fit(…, hooks=[regularizer.hook(model, couplings)])`. What it adds follows from the
weights alone, so that a training resumed goes on exactly as it would have.
"""

from collections.abc import Sequence
from typing import ClassVar, Protocol

from torch import nn

from kezuri.core.registry import Registry
from kezuri.model.families import Coupling
from kezuri.train.hooks import Hook


class Regularizer(Protocol):
    """Draws what matters least towards zero during training."""

    coupled: ClassVar[bool]
    """Whether it must know which channels go together."""

    def hook(self, model: nn.Module, couplings: Sequence[Coupling] | None = None) -> Hook:
        """What it does in a training of `model`, or of a model of the same form.

        Args:
            model: left as it is.
            couplings: from `couple(model, …)`, for those that are `coupled`; blocked ones are passed over.

        Raises:
            UsageError: the model has nothing to draw at, or couplings are missing.
        """
        ...


regularizers: Registry[type[Regularizer]] = Registry("regularizer")
