"""Which channels of a model must go together, and which cannot go, with the reason."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from time import monotonic
from typing import Literal

import torch
from torch import Tensor, nn

from kezuri.core.errors import NotFollowed, UsageError
from kezuri.core.progress import Progress
from kezuri.model.channels import DEFAULT, SINGLE, Choices
from kezuri.model.exported import trace
from kezuri.model.exporting import SILENT, example_batch, in_time, load_torch_export
from kezuri.model.families import Coupling, Couplings, Member, Row
from kezuri.model.grouping import group
from kezuri.model.partial import group_parts
from kezuri.model.proof import Trial, cut
from kezuri.model.sites import tensors_of

__all__ = ["Choices", "Coupling", "Couplings", "Member", "Row", "couple", "protected_parameters"]


Result = Literal["module", "program", "auto"]
"""What a cut may give: the user's own class, a rewritten program, or the class where it can be."""

SECONDS = 300.0
TRIAL_SECONDS = 60.0
INSIDE = "which cuts only inside the modules that can be followed"


def couple(
    model: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...],
    *,
    protect: Sequence[str] = (),
    result: Result = "module",
    choices: Choices = DEFAULT,
    seconds: float = SECONDS,
    fallback: bool = False,
    progress: Progress = SILENT,
) -> Couplings:
    """Finds what has to be removed together: the couplings of a model.

    The model is traced with torch.export; each operation says which channel positions of its inputs and
    outputs are one channel, and those that no operation ties to a fixed size may be removed. Where the
    model's code may hold a size as a number, one unit is cut from a copy to see whether it still runs.

    Args:
        model: left exactly as it is.
        example_inputs: a batch such as the model takes.
        protect: names or patterns (`features.*`) of modules whose outputs stay whole.
        result: with "module", what the model's own code cannot lose is blocked; with "auto" it stays free,
            with `Coupling.rewrite` as the reason why a cut of it gives a rewritten program; with "program"
            nothing is tried.
        choices: whether heads or head widths go, and whether norms may lose channels.
        seconds: for all of it; trial cuts get 60 at most, and what was not tried by then counts as failed.
        fallback: where torch.export cannot follow the model as a whole, whether to cut inside the modules
            it can follow; following the whole may then take half of the time.
        progress: hears how it goes: modules, operations, trial cuts.

    Returns:
        every coupling in execution order, the blocked ones with their reason.

    Raises:
        NotFollowed: torch.export cannot follow the model, or not in this time, or in twice the memory of its
            weights (and 1 GB); the line it stopped at is named.
        ModelError: the model does not accept the inputs.
        UsageError: a pattern in `protect` fits no module, near names are listed; or no time is given.
        ProofFailed: a trial cut was needed and the model's answers are random or not finite.
    """
    if not seconds > 0:
        raise UsageError(f"the analysis needs more than 0 seconds, got {seconds}")
    load_torch_export()
    deadline = monotonic() + seconds
    protected = protected_parameters(model, protect)
    inputs = example_batch(model, example_inputs)
    try:
        with in_time(deadline - seconds / 2 if fallback else deadline, seconds):
            grouped = group(model, trace(model, inputs, choices, progress))
    except NotFollowed as error:
        if not fallback:
            raise NotFollowed(f"{error}; or couple it with fallback=True, {INSIDE}") from error
        if result == "program":
            raise NotFollowed(f"{error}; without its graph there is no program") from error
        grouped = group_parts(model, inputs, choices, str(error), deadline)
    items = tuple(_guarded(item, protected) for item in grouped.couplings)
    found = replace(grouped.couplings, items=items)
    doubts = {name: doubt for name, doubt in grouped.doubts.items() if found.named(name).reason is None}
    if result == "program":
        failed = {name: reason for name, (_, reason) in doubts.items()}
    else:
        failed = _tried(model, found, doubts, inputs, min(deadline, monotonic() + TRIAL_SECONDS), progress)
    final: Result = "module" if grouped.partial else result
    return replace(found, items=tuple(_judged(item, failed.get(item.name), final) for item in items))


def _judged(item: Coupling, why: str | None, result: Result) -> Coupling:
    """The coupling after its trial."""
    if why is None:
        return item
    return replace(item, reason=why) if result == "module" else replace(item, rewrite=why)


def _tried(
    model: nn.Module,
    found: Couplings,
    doubts: Mapping[str, tuple[int, str]],
    inputs: tuple[Tensor, ...],
    deadline: float,
    progress: Progress,
) -> dict[str, str]:
    """The doubtful couplings of which cutting one unit breaks or changes the model, with why.

    Of couplings that look alike one is tried first, and stands for the others when it fails.
    """
    kinds: dict[tuple[object, ...], list[str]] = {}
    for name, (_, reason) in doubts.items():
        kinds.setdefault((reason, *_kind(model, found.named(name))), []).append(name)
    failed = dict[str, str]()
    for chosen in (
        [names[0] for names in kinds.values()],
        [n for names in kinds.values() for n in names[1:]],
    ):
        kept = {}
        for name in chosen:
            unit, width = doubts[name][0], found.named(name).width
            if name not in failed:
                kept[name] = torch.arange(width) != unit
        if not kept:
            continue
        progress.start("trial cuts", total=len(kept), done=0)
        try:
            rejected = cut(model, found, kept, inputs, trial=Trial(deadline, progress)).rejected
        finally:
            progress.done()
        for name, why in rejected.items():
            alike = next(names for names in kinds.values() if name in names)
            for other in alike if name == alike[0] else [name]:
                failed.setdefault(other, f"{doubts[other][1]} ({why})")
    return failed


def _kind(model: nn.Module, coupling: Coupling) -> list[tuple[object, ...]]:
    """What a coupling looks like: which kinds of modules hold it, and how."""
    return [
        (
            type(model.get_submodule(member.parameter.rpartition(".")[0])),
            member.parameter.rpartition(".")[2],
            member.dim,
            member.role,
        )
        for member in coupling.members
    ]


def _guarded(coupling: Coupling, protected: set[str]) -> Coupling:
    """The coupling, blocked if it has a single unit or belongs to a protected module."""
    if coupling.reason is not None:
        return coupling
    if any(member.parameter in protected for member in coupling.members if member.role != "input"):
        return replace(coupling, reason="protected")
    if coupling.width > 1:
        return coupling
    single = all(member.positions.shape[1] == 1 for member in coupling.members if member.role == "output")
    return replace(coupling, reason=SINGLE if single else "its channels can only go all at once")


def protected_parameters(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    """The parameters of modules that a pattern fits, and of what is inside them.

    Raises:
        UsageError: a pattern fits no module; near names are listed.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    names = {id(tensor): name for name, tensor in tensors_of(model).items()}
    protected = set()
    for pattern in patterns:
        fitting = [module for name, module in modules.items() if fnmatchcase(name, pattern)]
        if not fitting:
            near = get_close_matches(pattern, modules, n=3) or list(modules)[:8]
            raise UsageError(f"protect: no module is named {pattern!r}; near: {', '.join(near)}")
        for module in fitting:
            protected |= {names[id(tensor)] for tensor in tensors_of(module).values()}
    return protected
