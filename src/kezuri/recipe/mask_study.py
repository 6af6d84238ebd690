"""A study of mask searches: every searcher at every sparsity over several draws, retrained. Pure data."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from kezuri.core.errors import RecipeError, UsageError
from kezuri.data import Augment
from kezuri.distillation.loss import Loss
from kezuri.prune.criteria.norm import L1
from kezuri.prune.criterion import Criterion
from kezuri.prune.fitness import MaskFitness
from kezuri.prune.granularity import Granularity, Weight
from kezuri.prune.scope import Global, Scope
from kezuri.prune.searcher import MaskSearcher
from kezuri.prune.select import check_sparsity
from kezuri.recipe.build import build, plain
from kezuri.recipe.document import Document, plain_scalar
from kezuri.recipe.model_choice import ModelChoice

Norms = Literal["frozen", "reestimated"]
ALL = "all"


@dataclass(frozen=True)
class MaskPlan:
    """What is studied.

    A draw is a seed: of the search, and of the few images that are retrained with. All searchers have the
    same draws, so that what they bring can be compared pair by pair.

    Attributes:
        model: which; without weights it is trained first, once.
        data: a known name or a folder of images.
        searchers: by the name they have in tables, as `mask_plan` reads them.
        sparsities: fractions of the weights to remove.
        evaluations: masks that each search judges.
        draws: how often everything is done, with the draws 0, 1, …
        per_class: the images of each class that masks are retrained with, a number or `all`, each apart.
        criterion, granularity, scope: where a search begins, what is removed together, and who competes.
        fitness: how a mask is judged.
        search_images: how many training images a search may look at.
        search_per_class: instead of those, so many of each class of the draw: with 1, those that retraining
            with 1 image a class sees.
        train_epochs: of the dense model's training.
        epochs: of retraining with all images.
        few_epochs: of retraining with a number of each class, where an epoch is often a single step.
        norms: whether BatchNorm keeps the dense model's statistics (`frozen`), or they are computed anew from
            training images, unlabelled, for every mask, and learnt along where all images are trained on.
        distill: has the dense model teach in retraining, by this loss.
        augment: what is done to training images, in training and retraining alike.
        batch_size: images a training step.
        lr: of Adam, at the start of training.
        lr_ratio: fraction of it that retraining begins with.
    """

    model: ModelChoice
    data: str
    searchers: Mapping[str, MaskSearcher]
    sparsities: tuple[float, ...] = (0.8, 0.9, 0.95)
    evaluations: int = 1000
    draws: int = 10
    per_class: tuple[str, ...] = ("1", ALL)
    criterion: Criterion = field(default_factory=L1)
    granularity: Granularity = field(default_factory=Weight)
    scope: Scope = field(default_factory=lambda: Global(normalize="none"))
    fitness: MaskFitness = field(default_factory=MaskFitness)
    search_images: int = 10_000
    search_per_class: int | None = None
    train_epochs: float = 10.0
    epochs: float = 2.0
    few_epochs: float = 100.0
    norms: Norms = "frozen"
    distill: Loss | None = None
    augment: tuple[Augment, ...] = ()
    batch_size: int = 128
    lr: float = 1e-3
    lr_ratio: float = 0.5

    def __post_init__(self) -> None:
        for name in ("sparsities", "searchers"):
            if not getattr(self, name):
                raise UsageError(f"a study of masks needs at least one of its {name}")
        self._check_numbers()
        for stage in self.per_class:
            if stage != ALL and not re.fullmatch("[1-9][0-9]*", stage):
                raise UsageError(f"images of each class are a number from 1 up, or {ALL!r}; got {stage!r}")
        if self.norms not in get_args(Norms):
            raise UsageError(f"norms is one of {', '.join(get_args(Norms))}; got {self.norms!r}")

    def _check_numbers(self) -> None:
        for sparsity in self.sparsities:
            check_sparsity(sparsity)
        for name in ("evaluations", "draws", "search_images", "search_per_class", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is at least 1, got {value}")
        for name in ("train_epochs", "epochs", "few_epochs", "lr", "lr_ratio"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is above 0, got {getattr(self, name)}")

    @property
    def few(self) -> tuple[int, ...]:
        """The numbers of images of each class that anything is done with."""
        wanted = [int(stage) for stage in self.per_class if stage != ALL]
        return tuple(wanted if self.search_per_class is None else [*wanted, self.search_per_class])


@dataclass(frozen=True)
class MaskCell:
    """One search, and the retraining of the mask it finds.

    Attributes:
        searcher: its name in the plan.
        folder: of its results; another one wherever anything the search depends on is different.
        retrained: the name of each retraining's result, by the images of each class.
    """

    searcher: str
    sparsity: float
    draw: int
    folder: str
    retrained: Mapping[str, str]


SEARCH = (
    "model",
    "criterion",
    "granularity",
    "scope",
    "fitness",
    "search_images",
    "search_per_class",
    "norms",
)
PARTS = ("criterion", "granularity", "scope", "distill")
TRAINING = ("augment", "batch_size", "lr")


def mask_cells(plan: MaskPlan, inputs: Mapping[str, str]) -> tuple[MaskCell, ...]:
    """Everything to do, a draw after the other, so that what is done can be compared at any time.

    Args:
        plan: what is studied.
        inputs: hashes of the data and of the dense weights.
    """
    settings = plain(plan)
    searching = {name: settings[name] for name in SEARCH} | dict(inputs)
    retrained = {}
    for stage in plan.per_class:
        epochs = plan.epochs if stage == ALL else plan.few_epochs
        digest = _digest(
            {name: settings[name] for name in ("norms", "distill", "lr_ratio", *TRAINING)}
            | {"epochs": epochs}
        )
        retrained[stage] = f"retrained-{stage}-{digest}"
    made = []
    for draw in range(plan.draws):
        for sparsity in plan.sparsities:
            for name in plan.searchers:
                own = {"searcher": settings["searchers"][name], "evaluations": plan.evaluations}
                digest = _digest(searching | own | {"sparsity": sparsity, "draw": draw})
                folder = f"{own['searcher']['use']}-{sparsity:g}-{draw}-{digest}"
                made.append(MaskCell(name, sparsity, draw, folder, retrained))
    return tuple(made)


def dense_digest(plan: MaskPlan, inputs: Mapping[str, str]) -> str:
    """What the dense model that a study trains depends on, as hex digits."""
    settings = plain(plan)
    return _digest({name: settings[name] for name in ("model", "train_epochs", *TRAINING)} | dict(inputs))


def mask_plan(content: Mapping[str, Any]) -> MaskPlan:
    """The plan in plain data; searchers and other parts may be written as on the command line.

    That is with settings after the name: `genetic:population=64:elites=4,random`, `global:normalize=mean`.

    Raises:
        RecipeError: a name or setting is unknown, or a value out of range.
    """
    read = {
        name: part_in(value) if name in PARTS and isinstance(value, str) else value
        for name, value in content.items()
    }
    if isinstance(searchers := content.get("searchers"), str):
        read["searchers"] = {word: part_in(word) for word in map(str.strip, searchers.split(",")) if word}
    plan: MaskPlan = build(MaskPlan, Document(read, "study-masks", {}))
    return plan


def part_in(text: str) -> dict[str, Any]:
    """A part with its settings, as in `genetic:population=64:elites=4`."""
    use, *settings = text.split(":")
    table: dict[str, Any] = {"use": use.strip()}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise RecipeError(f"settings are written as in genetic:population=64:elites=4; got {text!r}")
        table[key.strip()] = plain_scalar(value.strip(), text)
    return table


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]
