"""A study: distillation, quantization and pruning, alone and in every order, as recipes. Pure data.

Every cell of the grid is an ordinary recipe. What several cells begin with (the student, the teacher) is
trained once a seed, and its weights are what the other recipes name.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

from kezuri.core.errors import UsageError
from kezuri.core.registry import unknown
from kezuri.recipe.foresight import check_order
from kezuri.recipe.model_choice import ModelChoice
from kezuri.recipe.recipe import recipe_from_json

METHODS: Mapping[str, str] = {
    "baseline": "the student by itself, and trained for twice as long",
    "distill": "the student taught by the teacher",
    "assistant": "the same through an assistant: each of the two for half of the epochs, and each for all",
    "ptq": "8 bits after training",
    "qat": "8 bits with training",
    "prune": "one half of the weights: global or local, channels or single weights, convolutions or dense",
    "chain": "distill, prune and quantize in every order",
}

LINKS = ("distill", "prune", "quantize")
UNKEPT = {"accuracy": -0.99}
"""A floor that nothing falls below: a study shows what a method costs, so no step may soften it."""


@dataclass(frozen=True)
class Layers:
    """The names of a model's convolutions and of its dense layers."""

    conv: tuple[str, ...]
    dense: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What is studied.

    Attributes:
        data: a known name or a folder of images.
        student, assistant, teacher: from the smallest; the student is what is compressed.
        epochs: of the student's, the assistant's and the teacher's training; retraining after pruning or in
            integers takes half as many.
        seeds: how often everything is done, with the seeds 0, 1, …
        methods: of `METHODS`.
        sparsity: fraction of the weights that pruning removes, of the layers it may touch.
        batch_size: images a training step.
        lr: of Adam, at the start of each training; half of it in retraining.
    """

    data: str
    student: ModelChoice = field(default_factory=lambda: ModelChoice("plain2", {"width": 0.5}))
    assistant: ModelChoice = field(default_factory=lambda: ModelChoice("plain4", {"width": 0.5}))
    teacher: ModelChoice = field(default_factory=lambda: ModelChoice("plain8", {"width": 1.0}))
    epochs: float = 10.0
    seeds: int = 3
    methods: tuple[str, ...] = tuple(METHODS)
    sparsity: float = 0.5
    batch_size: int = 128
    lr: float = 1e-3

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in METHODS:
                raise unknown("method of a study", method, METHODS)
        if not self.methods:
            raise UsageError(f"a study needs at least one method (have: {', '.join(METHODS)})")
        if not self.epochs > 0:
            raise UsageError(f"epochs must be above 0, got {self.epochs}")
        if self.seeds < 1:
            raise UsageError(f"seeds is how often everything is done, at least once; got {self.seeds}")
        if not 0 < self.sparsity < 1:
            raise UsageError(f"sparsity is a fraction in (0, 1), got {self.sparsity}")


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        name: of the row it belongs to, and of its run.
        method: one of `METHODS`, or "teacher".
        seed: the run's.
        epochs: of the model itself and of its assistant, in all; the teacher's are not counted.
        recipe: complete, as plain data.
        weights: where its final weights are put for other cells, beside the runs; None if none need them.
        refused: why it cannot be done, where it cannot.
    """

    name: str
    method: str
    seed: int
    epochs: float
    recipe: Mapping[str, Any]
    weights: str | None = None
    refused: str | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """Weights of other cells that it begins with or learns from."""
        models = [self.recipe["model"], *(step.get("teacher") or {} for step in self.recipe["steps"])]
        return tuple(model["weights"] for model in models if model.get("weights"))


def cells(plan: Plan, layers: Layers) -> tuple[Cell, ...]:
    """Every run of a study, in an order in which each finds the weights it begins with.

    Args:
        plan: what is studied.
        layers: of the student.

    Raises:
        RecipeError: a setting is out of range.
    """
    return tuple(_checked(cell) for seed in range(plan.seeds) for cell in _Seed(plan, layers, seed).cells())


def _checked(cell: Cell) -> Cell:
    recipe = recipe_from_json(dict(cell.recipe), f"study, {cell.name}")
    try:
        check_order(recipe)
    except UsageError as error:
        return replace(cell, refused=str(error))
    return cell


class _Seed:
    """The cells of one seed."""

    def __init__(self, plan: Plan, layers: Layers, seed: int) -> None:
        self.plan, self.layers, self.seed = plan, layers, seed
        self.tune = plan.epochs / 2
        self.student = self._begun("student", "baseline", plan.student)
        self.teacher = self._begun("teacher", "teacher", plan.teacher)

    def cells(self) -> Iterator[Cell]:
        asked = set(self.plan.methods)
        yield self.student
        if asked & {"distill", "assistant", "chain"}:
            yield self.teacher
        made: Mapping[str, Sequence[Cell]] = {
            "baseline": [self._cell("student-longer", "baseline", 2, [self._train(2)])],
            "distill": [self._cell("distilled", "distill", 2, [self._distill(2)])],
            "assistant": [
                self._cell("distilled-assistant", "assistant", 2, [self._distill(1, assist=True)]),
                self._cell("distilled-assistant-longer", "assistant", 4, [self._distill(2, assist=True)]),
            ],
            "ptq": [self._from_student("ptq", "ptq", 0, [{"use": "quantize", "train": "never"}])],
            "qat": [self._from_student("qat", "qat", 0.5, [self._quantize()])],
            "prune": self._prunings(),
            "chain": self._chains(),
        }
        for method in METHODS:
            yield from made[method] if method in asked else ()

    def _prunings(self) -> list[Cell]:
        made = []
        for scope in ("global", "local"):
            for form, granularity in (("structured", "channel"), ("unstructured", "weight")):
                for kind in ("conv", "dense"):
                    name = f"prune-{scope}-{form}-{kind}"
                    step = self._prune(scope, granularity, kind)
                    made.append(self._from_student(name, "prune", 0.5, [step]))
        return made

    def _chains(self) -> list[Cell]:
        links = {
            "distill": self._distill(1),
            "prune": self._prune("local", "channel", "conv"),
            "quantize": self._quantize(),
        }
        orders = permutations(LINKS)
        return [
            self._from_student("-".join(order), "chain", 2, [links[one] for one in order]) for order in orders
        ]

    def _begun(self, name: str, method: str, model: ModelChoice) -> Cell:
        """A cell whose weights others begin with."""
        cell = self._cell(name, method, 1, [self._train(1)], model)
        digest = hashlib.sha256(json.dumps(cell.recipe, sort_keys=True).encode()).hexdigest()[:12]
        return replace(cell, weights=f"weights/{name}-{digest}.safetensors")

    def _from_student(self, name: str, method: str, share: float, steps: Sequence[Mapping[str, Any]]) -> Cell:
        student = replace(self.plan.student, weights=self.student.weights)
        return self._cell(name, method, 1 + share, steps, student)

    def _cell(
        self,
        name: str,
        method: str,
        share: float,
        steps: Sequence[Mapping[str, Any]],
        model: ModelChoice | None = None,
    ) -> Cell:
        """A cell that takes `share` times the plan's epochs."""
        recipe = {
            "name": name,
            "seed": self.seed,
            "model": _choice(model or self.plan.student),
            "data": {"use": self.plan.data},
            "goal": UNKEPT,
            "steps": [dict(step) for step in steps],
        }
        return Cell(name, method, self.seed, share * self.plan.epochs, recipe)

    def _train(self, share: float) -> dict[str, Any]:
        return {"use": "train", **self._training(share)}

    def _distill(self, share: float, *, assist: bool = False) -> dict[str, Any]:
        """From the teacher; each learner takes `share` of the epochs."""
        step = {
            "use": "distill",
            "teacher": _choice(replace(self.plan.teacher, weights=self.teacher.weights)),
        }
        assistants = [_choice(self.plan.assistant)] if assist else []
        return {**step, "assistants": assistants, **self._training(share)}

    def _prune(self, scope: str, granularity: str, kind: str) -> dict[str, Any]:
        """Of one kind of layers, the other left alone."""
        return {
            "use": "prune",
            "criterion": "l1",
            "granularity": granularity,
            "scope": scope,
            "schedule": {"use": "one_shot", "sparsity": self.plan.sparsity},
            "finetune": self._finetune(),
            "ignore": list(self.layers.dense if kind == "conv" else self.layers.conv),
        }

    def _quantize(self) -> dict[str, Any]:
        return {"use": "quantize", "train": "always", "finetune": self._finetune()}

    def _training(self, share: float) -> dict[str, Any]:
        plan = self.plan
        return {
            "epochs": share * plan.epochs,
            "lr": plan.lr,
            "batch_size": plan.batch_size,
            "optimizer": "adam",
        }

    def _finetune(self) -> dict[str, Any]:
        return {**self._training(0.5), "lr_ratio": 0.5}


def _choice(model: ModelChoice) -> dict[str, Any]:
    return {"use": model.use, "options": dict(model.options), "weights": model.weights}
