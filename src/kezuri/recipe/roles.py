"""Which registry answers for which role when a recipe says `use`."""

from functools import cache
from importlib import import_module
from typing import Any

from kezuri.core.registry import Registry


@cache
def _roles() -> dict[Any, Registry[Any]]:
    from kezuri.core.executor import Executor, executors
    from kezuri.data.augment import Augment, augmentations
    from kezuri.distillation.loss import Loss, losses
    from kezuri.prune.allocation import Allocation, allocations
    from kezuri.prune.criterion import Criterion, criteria
    from kezuri.prune.depth import BlockCriterion, block_criteria
    from kezuri.prune.granularity import Granularity, granularities
    from kezuri.prune.regularizer import Regularizer, regularizers
    from kezuri.prune.schedule import Schedule, schedules
    from kezuri.prune.scope import Scope, scopes
    from kezuri.prune.searcher import MaskSearcher, mask_searchers
    from kezuri.quantization.observer import Observer, observers
    from kezuri.quantization.rounding import Rounding, roundings
    from kezuri.recipe.step import Step, steps
    from kezuri.runtime.runner import Runner, runners
    from kezuri.train.lr_schedules import LrSchedule, lr_schedules
    from kezuri.train.optimizers import Optimizer, optimizers

    import_module("kezuri.distillation")
    import_module("kezuri.quantization.observers")
    import_module("kezuri.quantization.roundings")
    import_module("kezuri.recipe.steps")
    import_module("kezuri.runtime.runners")  # their members register themselves
    return {
        Allocation: allocations,
        Augment: augmentations,
        BlockCriterion: block_criteria,
        Criterion: criteria,
        Executor: executors,
        Granularity: granularities,
        Loss: losses,
        LrSchedule: lr_schedules,
        MaskSearcher: mask_searchers,
        Observer: observers,
        Optimizer: optimizers,
        Regularizer: regularizers,
        Rounding: roundings,
        Runner: runners,
        Schedule: schedules,
        Scope: scopes,
        Step: steps,
    }


def registries() -> dict[str, Registry[Any]]:
    """Every registry a recipe can choose from, by the role's name."""
    return {registry.kind: registry for registry in _roles().values()}


def role_of(kind: Any) -> Registry[Any] | None:
    """The registry of a role, or of a class that is a member of one; None for anything else."""
    try:
        if kind in _roles():
            return _roles()[kind]
    except TypeError:  # unhashable annotations are no roles
        return None
    for registry in _roles().values():
        if any(kind is member for member in registry.values()):
            return registry
    return None
