"""A search for masks in place of a ranking, as an option of the step `prune`."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from kezuri.core.errors import UsageError
from kezuri.core.goal import Goal
from kezuri.core.seeds import derive
from kezuri.prune.fitness import MaskFitness
from kezuri.prune.mask_space import mask_space, with_growth
from kezuri.prune.problem import FewestWeights, FixedSparsity, Problem
from kezuri.prune.search import Searched, search_masks
from kezuri.prune.searcher import MaskSearcher
from kezuri.prune.searchers.genetic import Genetic
from kezuri.recipe.step import ModelState, Resources
from kezuri.train import evaluate

if TYPE_CHECKING:
    from kezuri.recipe.rounds import Prospect
    from kezuri.recipe.steps.prune import Prune


@dataclass(frozen=True)
class MaskSearch:
    """Looks for what to remove by trying whole masks; the criterion says where to begin.

    Attributes:
        searcher: what is tried.
        evaluations: how many masks are judged in a round.
        fitness: how a mask is judged.
        split: how many training images are searched on; the best masks are judged on all of them at the end.
        keep: the accuracy to keep on those images, before retraining. A round then removes as many weights as
            that allows, and its rate is only where the search begins.
    """

    searcher: MaskSearcher = field(default_factory=Genetic)
    evaluations: int = 1000
    fitness: MaskFitness = field(default_factory=MaskFitness)
    split: int = 10_000
    keep: Goal | None = None

    def __post_init__(self) -> None:
        if self.evaluations < 1:
            raise UsageError(f"evaluations is how many masks are judged, at least 1, got {self.evaluations}")
        if self.split < 1:
            raise UsageError(f"split is a number of training images, at least 1, got {self.split}")

    @property
    def image_passes(self) -> float:
        """About how many images are run through the model, at most."""
        return self.evaluations * (self.fitness.images or self.split) + 12 * self.split


def searched(
    plan: "Prune",
    state: ModelState,
    prospect: "Prospect",
    resources: Resources,
    *,
    sparsity: float,
    stage: str,
) -> Searched:
    """What a search would remove of a model, which stays as it is; a killed one goes on.

    Args:
        plan: the step's settings, with a search.
        prospect: of the model.
        sparsity: fraction of the weights to remove, in [0, 1), those counted that went before.
        stage: the attempt's name.
    """
    assert plan.search is not None
    settings, data = plan.search, resources.data.train
    seed = derive(resources.seed, stage, "search")
    part = data.subset(min(settings.split, len(data)))
    space = mask_space(
        state.model,
        criterion=plan.criterion,
        granularity=plan.granularity,
        scope=plan.scope,
        allocation=plan.allocation,
        evidence=prospect.evidence,
        couplings=prospect.couplings,
        ignore=() if plan.cuts else plan.ignore,  # couplings know them already, as protected
        masks=state.masks,
    )
    problem: Problem = FixedSparsity(sparsity)
    if settings.keep is not None:
        floor = settings.keep.floor(evaluate(state.model, part, device=resources.device).accuracy)
        total = space.masks(torch.ones(space.units, dtype=torch.bool)).total
        problem = FewestWeights(floor=floor, sparsity=sparsity, total=total)
    if settings.searcher.grows_by_gradient:
        space = with_growth(space, state.model, part, sparsity=sparsity, seed=seed)
    found = search_masks(
        state.model,
        part,
        problem=problem,
        searcher=settings.searcher,
        space=space,
        fitness=settings.fitness,
        evaluations=settings.evaluations,
        seed=seed,
        device=resources.device,
        checkpoint=resources.stages.checkpoint(stage) / "search",
        progress=resources.listener,
    )
    best = found.best.fitness
    resources.listener.say(
        f"       searched {found.evaluations} masks on {found.history[-1].images:,} images: "
        f"sparsity {found.sparsity:.2%}, {best.accuracy:.2%} of {best.images:,} training images right before "
        f"retraining"
    )
    return found
