"""The step that trains with few labels and many images."""

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

from kezuri.core.seeds import derive
from kezuri.data import Augment, Data, batch_count
from kezuri.recipe.step import ModelState, Resources, steps
from kezuri.recipe.teaching import Teaching, objective_of
from kezuri.train import FixMatch, Training, estimate_step_seconds, fit, with_few_labels
from kezuri.train.fixmatch import STRONG, WEAK, check_fixmatch

TIMED = 512  # unlabelled images of a step that is timed


@steps.register("fixmatch")
@dataclass(frozen=True)
class FixMatchTraining(Training):
    """Trains with the labels of a few training images and the sight of all (Sohn et al., 2020).

    An epoch shows every training image once without its label, and the labelled ones again and again
    meanwhile. The validation images keep their labels, and so do the training images of other steps.

    Attributes:
        lr, batch_size: as in training; the defaults are the paper's. The batch is of labelled images.
        augment: what is done to the labelled images.
        labels_per_class: how many training images of each class keep their label.
        label_seed: which ones; a seed of its own, so that runs with other seeds stay comparable.
        mu: unlabelled images for each labelled one.
        threshold: how probable the model must find its own answer to learn from it, in [0, 1].
        weight: of the unlabelled images' loss.
        weak: what is done to the images the model is asked about.
        strong: what is done to the images it learns from.
        distill: has a teacher take part in what the labelled images teach; one must be named where nothing
            was compressed before.
    """

    lr: float = 0.03
    batch_size: int = 64
    augment: tuple[Augment, ...] = WEAK
    labels_per_class: int = 25
    label_seed: int = 0
    mu: int = 7
    threshold: float = 0.95
    weight: float = 1.0
    weak: tuple[Augment, ...] = WEAK
    strong: tuple[Augment, ...] = STRONG
    distill: Teaching | None = None
    compresses: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fixmatch(self.mu, self.threshold, self.weight, {"weak": self.weak, "strong": self.strong})

    def data(self, resources: Resources) -> Data:
        """The run's data with few labels.

        Raises:
            DataError: a class has fewer images than are to keep their label.
        """
        return with_few_labels(
            resources.data,
            self.labels_per_class,
            seed=self.label_seed,
            batch_size=self.batch_size,
            mu=self.mu,
        )

    def objective(self, resources: Resources) -> FixMatch:
        """What the training makes small."""
        return FixMatch(
            resources.data.train,
            mu=self.mu,
            threshold=self.threshold,
            weight=self.weight,
            weak=self.weak,
            strong=self.strong,
            labelled=objective_of(self.distill, resources),
        )

    def apply(self, state: ModelState, resources: Resources, *, stage: str) -> ModelState:
        """Trains, or returns what an earlier run left."""
        stages, listener = resources.stages, resources.listener
        if stages.record(stage) is not None:
            return stages.state(stage)
        data = self.data(resources)
        model = copy.deepcopy(state.model)  # what came before is still compared with
        fitted = fit(
            model,
            data,
            self,
            seed=derive(resources.seed, stage),
            device=resources.device,
            checkpoint=stages.checkpoint(stage),
            progress=listener,
            hooks=state.hooks(),
            objective=self.objective(resources),
        )
        labels = self.labels_per_class * len(data.classes)
        listener.say(
            f"trained {self.epochs:g} epochs with {labels} of {len(resources.data.train)} labels in "
            f"{fitted.seconds:.0f} s: validation accuracy {fitted.best_accuracy:.2%}"
        )
        record = {"accuracy": fitted.best_accuracy, "labels": labels, "seconds": fitted.seconds}
        trained = replace(state, model=model)
        stages.finish(stage, record=record, state=trained)
        stages.manifest.update(trained_here=True)
        return trained

    def seconds(self, state: ModelState, resources: Resources) -> float:
        """Steps times a timed step, of fewer unlabelled images where there are very many."""
        data = self.data(resources)
        steps_ = self.epochs * batch_count(len(data.train), self.batch_size, training=True)
        few = replace(self, mu=max(1, min(self.mu, TIMED // self.batch_size)))
        have = len(resources.data.train)
        timed = estimate_step_seconds(
            state.model, data, few, device=resources.device, objective=few.objective(resources)
        )
        return steps_ * timed * self.images_at_once(have) / few.images_at_once(have)

    def images_at_once(self, have: int) -> int:
        """Images that a step shows the model, of so many training images."""
        return self.batch_size + 2 * min(self.mu * self.batch_size, have)

    def warnings_of(self, resources: Resources) -> list[str]:
        """What is unwise with these data, each with the reason."""
        part, said = resources.data.train, []
        if self.labels_per_class * part.classes >= len(part):
            said.append(
                f"labels_per_class {self.labels_per_class} keeps the labels of all {len(part)} training "
                f"images: there is nothing to learn without them (use the step train)"
            )
        if self.mu * self.batch_size > len(part):
            said.append(
                f"mu {self.mu} asks for {self.mu * self.batch_size:,} unlabelled images a step and there are "
                f"{len(part):,}: an epoch is a single step"
            )
        return said

    def warnings(self) -> list[str]:
        """Settings known to fail, with the reason."""
        if self.threshold < 0.5:
            return [
                f"threshold {self.threshold:g} lets the model learn from answers it holds for wrong itself "
                f"(0.95 is usual, 0.7 for short trainings)"
            ]
        return []
