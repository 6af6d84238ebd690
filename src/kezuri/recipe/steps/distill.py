"""The step that has a model learn from a larger one, through assistants where the gap is wide."""

import copy
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from torch import nn

from kezuri.core.errors import UsageError
from kezuri.core.seeds import derive
from kezuri.distillation.assistant import (
    Choice,
    Pupil,
    between,
    check_neighbours,
    check_sizes,
    choose_assistant,
    teach_in_turn,
)
from kezuri.distillation.distillation import Distillation
from kezuri.distillation.loss import Loss
from kezuri.distillation.losses.logits import Logits
from kezuri.distillation.teacher import check_teacher, learnt_nothing
from kezuri.recipe.model_choice import ModelChoice
from kezuri.recipe.step import ModelState, Resources, steps
from kezuri.recipe.teaching import Teaching
from kezuri.train import Training, estimate_step_seconds, evaluate


@dataclass(frozen=True)
class Assistant(ModelChoice):
    """A model between teacher and student.

    Attributes:
        loss: how it is compared with its teacher; by default as the student is.
    """

    loss: Loss | None = None


@steps.register("distill")
@dataclass(frozen=True)
class Distill(Training):
    """Has the model, or a smaller one in its place, learn from a teacher (Hinton et al., 2015).

    Attributes:
        student: a model to build and go on with; its teacher is by default the model before this step. By
            default the model before this step is the student, and the dense one the teacher.
        teacher: which model, with its weights, when it is another.
        loss: how the student is compared with its teacher.
        assistants: models between teacher and student, from the largest, each trained as long as the student
            is and teaching the next; `auto` takes one of the candidates (Mirzadeh et al., 2020).
        candidates: what `auto` chooses among, from the smallest; by default the models of the zoo between
            the two, if they are of one family. Each is trained alone, and so is the student; the one nearest
            the mean accuracy of student and teacher assists.
        probe_epochs: how long they are trained for that; by default as long as the student is.
    """

    student: ModelChoice | None = None
    teacher: ModelChoice | None = None
    loss: Loss = field(default_factory=Logits)
    assistants: Literal["auto"] | tuple[Assistant | str, ...] = ()
    candidates: tuple[ModelChoice | str, ...] = ()
    probe_epochs: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.assistants != "auto":
            named = tuple(Assistant(one) if isinstance(one, str) else one for one in self.assistants)
            object.__setattr__(self, "assistants", named)
        candidates = tuple(ModelChoice(one) if isinstance(one, str) else one for one in self.candidates)
        spelt = [_spell(one) for one in candidates]
        for one in spelt:
            if spelt.count(one) > 1:
                raise UsageError(
                    f"{one} is named {spelt.count(one)} times among the candidates; name each once"
                )
        object.__setattr__(self, "candidates", candidates)
        for name in ("candidates", "probe_epochs"):
            if getattr(self, name) and self.assistants != "auto":
                raise UsageError(f"{name} is for assistants: auto, got assistants: {self.assistants!r}")
        if self.probe_epochs is not None:
            if not self.probe_epochs > 0:
                raise UsageError(f"probe_epochs must be above 0, got {self.probe_epochs}")
            replace(self, epochs=self.probe_epochs, probe_epochs=None)  # also the warmup must fit into them

    @property
    def compresses(self) -> bool:
        """Whether a smaller model takes the place of the one before."""
        return self.student is not None

    def apply(self, state: ModelState, resources: Resources, *, stage: str) -> ModelState:
        """Teaches the assistants and the student, or returns what an earlier run left."""
        stages, listener = resources.stages, resources.listener
        if stages.record(stage) is not None:
            return stages.state(stage)
        teacher, begun = self.teacher_of(state, resources), self.student_of(state, resources)
        accuracy = check_teacher(teacher, resources.data.validation, device=resources.device)
        assistants, choice = self._assistants(state, resources, stage=stage)
        pupils = self._pupils(assistants, begun.model, resources)
        validation = resources.data.validation
        before = evaluate(begun.model, validation, device=resources.device).accuracy
        fitted = teach_in_turn(
            teacher,
            pupils,
            resources.data,
            self,
            seed=derive(resources.seed, stage),
            device=resources.device,
            hooks=begun.hooks(),
            checkpoint=stages.checkpoint(stage),
            progress=listener,
        )
        found = [one.best_accuracy for one in fitted]
        chain = "".join(f", {one.use} {right:.2%}" for one, right in zip(assistants, found, strict=False))
        listener.say(
            f"learnt from a teacher: validation accuracy {found[-1]:.2%} (teacher {accuracy:.2%}{chain})"
        )
        if said := learnt_nothing(found[-1], before, validation.labels):
            listener.warn(said)
        record = {
            "accuracy": found[-1],
            "teacher": accuracy,
            "assistants": [
                {"use": one.use, "accuracy": right} for one, right in zip(assistants, found, strict=False)
            ],
            "choice": None if choice is None else asdict(choice),
            "seconds": sum(one.seconds for one in fitted),
        }
        stages.finish(stage, record=record, state=begun)
        if self.student is not None:
            stages.manifest.update(trained_here=self.student.weights is None, cuts=[])
        return begun

    def teacher_of(self, state: ModelState, resources: Resources) -> nn.Module:
        """The teacher, on the run's device."""
        if self.teacher is None and self.student is not None:
            return state.model
        return Teaching(self.loss, self.teacher).model(resources)

    def student_of(self, state: ModelState, resources: Resources) -> ModelState:
        """The student before it learns anything, on the run's device."""
        if self.student is None:
            return replace(state, model=copy.deepcopy(state.model))
        return ModelState(resources.build(self.student).to(resources.device), spec=self.student.spec)

    def known_candidates(self, state: ModelState, resources: Resources) -> tuple[ModelChoice, ...]:
        """What `auto` chooses among, from the smallest.

        Raises:
            UsageError: none are named, and none are known between these two.
        """
        if self.candidates:
            return tuple(one for one in self.candidates if isinstance(one, ModelChoice))
        before = _name(state, resources)
        student = self.student or before
        dense = before if resources.dense is None else _name(resources.dense, resources)
        teacher = self.teacher or (dense if self.student is None else before)
        return tuple(ModelChoice(name, teacher.options) for name in between(student.use, teacher.use))

    def _assistants(
        self, state: ModelState, resources: Resources, *, stage: str
    ) -> tuple[tuple[Assistant, ...], Choice | None]:
        """Those named, or the one that is chosen."""
        if self.assistants != "auto":
            return tuple(one for one in self.assistants if isinstance(one, Assistant)), None
        known = {_spell(one): one for one in self.known_candidates(state, resources)}
        name, choice = next(iter(known)), None
        if len(known) > 1:
            choice = choose_assistant(
                {name: resources.build(one) for name, one in known.items()},
                self.student_of(state, resources).model,
                self.teacher_of(state, resources),
                resources.data,
                self.probe,
                seed=derive(resources.seed, stage, "assistant"),
                device=resources.device,
                checkpoint=resources.stages.checkpoint(stage),
                progress=resources.listener,
            )
            name = choice.name
            tried = ", ".join(f"{name} {right:.2%}" for name, right in choice.accuracies.items())
            resources.listener.say(
                f"{name} assists: trained alone, {tried}, the student {choice.student:.2%}; the teacher has "
                f"{choice.teacher:.2%}"
            )
        one = known[name]
        return (Assistant(one.use, one.options, one.weights),), choice

    @property
    def probe(self) -> Training:
        """How candidates are trained alone."""
        return (
            self if self.probe_epochs is None else replace(self, epochs=self.probe_epochs, probe_epochs=None)
        )

    def _pupils(
        self, assistants: tuple[Assistant, ...], student: nn.Module, resources: Resources
    ) -> list[Pupil]:
        between = [
            Pupil(resources.build(one).to(resources.device), one.loss or self.loss) for one in assistants
        ]
        return [*between, Pupil(student, self.loss)]

    def check(self, state: ModelState, resources: Resources) -> None:
        """Tries who teaches whom, before anything is trained.

        Raises:
            UsageError: there is no teacher or no assistant, two do not fit, the loss finds nothing to
                compare, or an assistant does not stand between the two.
        """
        student, teacher = self.student_of(state, resources).model, self.teacher_of(state, resources)
        assistants = self.assistants
        if assistants == "auto":
            known = self.known_candidates(state, resources)
            assistants = tuple(Assistant(one.use, one.options, one.weights) for one in known)
        named = tuple(one for one in assistants if isinstance(one, Assistant))
        chains = [(one,) for one in named] if self.assistants == "auto" else [named]
        for chain in chains:
            pupils = self._pupils(chain, student, resources)
            called = [f"assistant {number} ({_spell(one)})" for number, one in enumerate(chain, start=1)]
            between = {name: one.model for name, one in zip(called, pupils, strict=False)}
            check_sizes(teacher, between, None if self.student is None else student)
            check_neighbours(teacher, pupils, resources.data, resources.device)

    def seconds(self, state: ModelState, resources: Resources) -> float:
        """Of each in the chain, steps times a timed step; before that `auto` trains the candidates."""
        data, device = resources.data, resources.device
        batches = -(-len(data.train) // self.batch_size)
        student = self.student_of(state, resources).model
        teacher = self.teacher_of(state, resources)
        total = 0.0
        assistants = () if self.assistants == "auto" else self._assistants(state, resources, stage="")[0]
        if self.assistants == "auto":
            known = self.known_candidates(state, resources)
            middle = known[len(known) // 2]
            assistants = (Assistant(middle.use, middle.options, middle.weights),)
            alone = [student, *(resources.build(one) for one in known)] if len(known) > 1 else []
            probed = [estimate_step_seconds(one, data, self.probe, device=device) for one in alone]
            total += self.probe.epochs * batches * sum(probed)
        for pupil in self._pupils(assistants, student, resources):
            objective = Distillation(teacher, pupil.loss)
            step = estimate_step_seconds(pupil.model, data, self, device=device, objective=objective)
            total += self.epochs * batches * step
            teacher = pupil.model
        return total

    def warnings(self) -> list[str]:
        """Settings known to fail, with the reason."""
        if self.probe_epochs is not None and self.probe_epochs < self.epochs / 2:
            return [
                f"{self.probe_epochs:g} probe_epochs leave candidates far behind a teacher that was trained "
                f"to the end, so that the largest is chosen more often than it should be"
            ]
        return []


def _name(state: ModelState, resources: Resources) -> ModelChoice:
    """What a model was cut from."""
    return resources.model if state.spec is None else ModelChoice(state.spec.ref, state.spec.options)


def _spell(choice: Any) -> str:
    options = ", ".join(f"{name}={value}" for name, value in choice.options.items())
    return f"{choice.use}({options})" if options else str(choice.use)
