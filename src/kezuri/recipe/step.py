"""The role of a step: one action of a recipe, and what flows between steps."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from kezuri.core.goal import Goal
from kezuri.core.registry import Registry
from kezuri.data import Data
from kezuri.model.load import ModelSpec
from kezuri.model.shrink import Structure
from kezuri.prune.masks import Masks
from kezuri.quantization.qat import ScalesUndecayed
from kezuri.quantization.scheme import Scheme
from kezuri.recipe.listener import Listener, SilentListener
from kezuri.recipe.model_choice import ModelChoice
from kezuri.recipe.stages import Stages
from kezuri.train import Hook


@dataclass(frozen=True)
class ModelState:
    """What flows from step to step.

    Attributes:
        model: the model as it is now.
        structure: what stayed of each tensor, in positions of the model it was cut from.
        masks: weights that are held at zero, by parameter name; None when there are none.
        spec: how the model it was cut from is built, when that is another than the recipe's.
        quantization: bits and places of the quantizers in the model; None when there are none.
    """

    model: nn.Module
    structure: Structure = field(default_factory=Structure)
    masks: Masks | None = None
    spec: ModelSpec | None = None
    quantization: Scheme | None = None

    def hooks(self) -> list[Hook]:
        """What keeps a masked model masked in a training, and learned scales from shrinking."""
        masked: list[Hook] = [] if self.masks is None else [self.masks.hold()]
        return masked if self.quantization is None else [*masked, ScalesUndecayed()]


@dataclass(frozen=True)
class Resources:
    """What a step may use.

    Attributes:
        data: the data set; steps never look at its test part.
        device: where to train.
        seed: the run's seed; purposes derive theirs from it.
        goal: the run's goal, for steps that keep none of their own.
        stages: finished work, so that a killed run resumes.
        listener: hears what happens.
        rehearsal: whether steps are only gone through, so that a teacher may be untrained yet.
        model: the model the recipe begins with, as it names it.
        fresh: builds that model's structure, or that of another the recipe names (`ModelState.spec`).
        build: builds a model the recipe names, with its weights, on the CPU.
        dense: the model that results are compared with, once it is known; the teacher where none is named.
    """

    data: Data
    device: torch.device
    seed: int
    goal: Goal
    stages: Stages
    model: ModelChoice
    fresh: Callable[[ModelSpec | None], nn.Module]
    build: Callable[[ModelChoice], nn.Module]
    dense: ModelState | None = None
    listener: Listener = field(default_factory=SilentListener)
    rehearsal: bool = False

    @property
    def example(self) -> Tensor:
        """Two images of the data's shape, (2, C, H, W), to trace the model with."""
        return torch.zeros(2, *self.data.image_shape, device=self.device)


class Step(Protocol):
    """One action of a recipe; wires methods to a model."""

    @property
    def compresses(self) -> bool:
        """Whether the model before this step is the dense one that results are compared with."""
        ...

    def apply(self, state: ModelState, resources: Resources, *, stage: str) -> ModelState:
        """Does it. `stage` is this step's name among the run's finished work."""
        ...

    def seconds(self, state: ModelState, resources: Resources) -> float:
        """An estimate of how long `apply` takes, from a few timed batches."""
        ...

    def warnings(self) -> list[str]:
        """Settings that are allowed but known to fail, each with the reason."""
        ...


steps: Registry[type[Step]] = Registry("step")
