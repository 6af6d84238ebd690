"""One call: a model and a target in, the same model without its least important channels out, proved."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from kezuri.core.errors import MissingEvidence, UsageError
from kezuri.core.progress import Progress
from kezuri.core.seeds import derive
from kezuri.data import Data, from_dataset
from kezuri.model.coupling import Choices, Couplings, couple
from kezuri.model.exporting import SILENT, example_batch
from kezuri.model.proof import Cut
from kezuri.model.shrink import shrink_
from kezuri.prune.criterion import Criterion, criteria
from kezuri.prune.evidence import Evidence
from kezuri.prune.gather import gather
from kezuri.prune.granularity import Channel
from kezuri.prune.scope import Scope, scopes
from kezuri.prune.select import check_sparsity
from kezuri.recipe.budget import check_budget
from kezuri.recipe.costs import Costs
from kezuri.recipe.payoff import SECONDS
from kezuri.recipe.proposing import Decision, Order, Proposing, blocked, check_any_free
from kezuri.recipe.pruned import Pruned, Report, rows_of
from kezuri.recipe.timing import Timing, timed_shape
from kezuri.runtime.runner import runners

SPARSITY = 0.5
ROUNDING = 8
"""Channels that the kernels of a runtime take at once, if `ROUNDINGS` does not name it."""
ROUNDINGS = {"onnxruntime": 8}
OTHER_ROUNDINGS = (16, 4, 1)


def prune_channels(
    model: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...],
    sparsity: float = SPARSITY,
    criterion: str | Criterion = "l2",
    scope: str | Scope = "global",
    *,
    budget: Mapping[str, float] | None = None,
    round_to: int | None = None,
    floor: float = 0.05,
    protect: Sequence[str] = (),
    data: Data | Dataset[Any] | None = None,
    runtime: str = "onnxruntime",
    payoff: bool | float = False,
    result: Literal["auto", "module", "program"] = "auto",
    heads: Literal["whole", "width"] = "whole",
    norms: bool = False,
    fallback: bool = False,
    optimizer: torch.optim.Optimizer | None = None,
    inplace: bool = False,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Pruned:
    """Cuts the least important channels out of any model, and proves that the rest computes the same.

    What must go together is found by itself, and what cannot go is left alone, with the reason in the report:
    no layer has to be named. The cut model answers as the given one with those channels set to zero, to a
    relative 1e-5 on random inputs. Retrain it afterwards.

    Args:
        model: any module that torch.export can follow; it stays as it is.
        example_inputs: a batch such as the model takes; a tuple for several inputs.
        sparsity: fraction to remove, in [0, 1), of the weights of the channels that may go; at least that,
            over by less than one step. With the scope "local" or "isomorphic", of each layer or shape.
        criterion: what a channel is worth: a name (`kezuri list`), or a method such as `Taylor()`.
        scope: who competes: "global", "local", "isomorphic", or a method such as `Global(count="units")`.
        budget: instead of `sparsity`, ceilings: `{"macs": 0.5}`. Of `params`, `macs`, `size` (bytes of the
            ONNX file) and `latency` (milliseconds an example in the runtime, one thread); numbers below 1 are
            fractions of the dense model's. As little is removed as meets all of them. Size may stay up to
            0.2 % below its ceiling and latency, which is measured, 3 %.
        round_to: the number of channels kept is a multiple of this, except where nothing is removed. None for
            what suits the runtime (8), where layers of less than 32 channels are rounded to the largest power
            of two that goes into them four times.
        floor: what every coupling keeps at least: a fraction below 1, or a number of channels.
        protect: names or patterns (`features.*`) of modules whose outputs stay whole.
        data: for criteria that look at data: a `Data`, or a dataset that yields (image, label).
        runtime: where the model will run; sets `round_to`, and is what `payoff` and latencies are taken in.
        payoff: whether to time the shapes first, for 20 seconds or as many as given. If `round_to` is None,
            the best of four roundings is taken; cuts that bring neither time nor size are refused.
        result: "module" edits the model's own class, "program" rewrites it as a torch.export program whose
            literal sizes follow; "auto" rewrites only if channels chosen can go no other way.
        heads: what of an attention layer may go: whole heads, or channels within every head.
        norms: whether widths that LayerNorm or GroupNorm average over may go, which changes the answers.
        fallback: where torch.export cannot follow the model as a whole, whether to cut inside the modules it
            can follow.
        optimizer: whose state follows; needs `inplace`.
        inplace: cuts the model that was given.
        seed: decides everything random; what is measured (latency, pay-off) varies all the same.
        progress: hears how following the model and gathering evidence go.

    Raises:
        UsageError: a value is out of range, or pieces do not go together.
        ModelError: torch.export cannot follow the model, or nothing of it may be cut.
        MissingEvidence: the criterion needs to see data, or more than it got.
        GoalUnreachable: the budget cannot be met; says how far it can go and what stands in the way.
        ProofFailed: the model's answers are random or not finite.
    """
    order = Order(
        criterion=_criterion(criterion, seed),
        scope=scopes[scope]() if isinstance(scope, str) else scope,
        channel=_channel(round_to, floor, runtime),
        roundings=OTHER_ROUNDINGS if round_to is None else (),
        sparsity=sparsity,
        budget=None if budget is None else check_budget(budget),
        seconds=SECONDS if payoff is True else float(payoff),
    )
    _check(order, runtime)
    if optimizer is not None and not inplace:
        raise UsageError("an optimizer belongs to the model it trains: use inplace=True, or leave it out")
    if inplace and result == "program":
        raise UsageError('a program is another model: choose inplace=True or result="program"')
    shown = _shown(order.criterion, data)
    inputs = example_batch(model, example_inputs)
    if order.is_timed:
        timed_shape(inputs)
    form = "module" if inplace else result
    couplings = couple(
        model,
        inputs,
        protect=protect,
        result=form,
        choices=Choices(heads, norms),
        fallback=fallback,
        progress=progress,
    )
    check_any_free(couplings)
    gated = _with_places(model, couplings) if "gate" in order.criterion.needs else couplings
    found: Mapping[str, Evidence] = {}
    if shown is not None:
        found = gather(model, order.criterion, shown, couplings=gated, seed=seed, progress=progress)
    masked = copy.deepcopy(model)
    costs = Costs(masked, couplings, inputs)
    with Timing(costs, runtime) if order.is_timed else nullcontext() as timing:
        proposing = Proposing(order, model, costs, found, timing)
        decision, done = proposing.proved()
    if inplace:
        shrink_(model, done.structure, optimizer)
        done = replace(done, model=model)
    return _pruned(decision, done, costs, proposing.rejected)


def _criterion(given: str | Criterion, seed: int) -> Criterion:
    if not isinstance(given, str):
        return given
    kind: Any = criteria[given]
    drawn = any(option.name == "seed" for option in fields(kind))
    chosen: Criterion = kind(seed=derive(seed, "criterion")) if drawn else kind()
    return chosen


def _channel(round_to: int | None, floor: float, runtime: str) -> Channel:
    fraction = isinstance(floor, float) and 0 <= floor < 1
    if not fraction and not (isinstance(floor, int) and floor >= 1):
        raise UsageError(
            f"floor is a fraction in [0, 1) of each coupling, or a whole number of channels; got {floor!r}"
        )
    return Channel(
        floor=1 if fraction else int(floor),
        floor_fraction=floor if fraction else 0.0,
        round_to=ROUNDINGS.get(runtime, ROUNDING) if round_to is None else round_to,
        narrow="finer" if round_to is None else "same",
    )


def _check(order: Order, runtime: str) -> None:
    """What the pieces of an order do not check themselves."""
    check_sparsity(order.sparsity)
    if order.budget is not None and order.sparsity != SPARSITY:
        raise UsageError(f"give a sparsity or a budget, got both ({order.sparsity:g} and {order.budget})")
    if order.seconds < 0:
        raise UsageError(f"payoff is True, False or a number of seconds, got {order.seconds:g}")
    runners[runtime]


def _shown(criterion: Criterion, data: object) -> Data | None:
    """The data, if the criterion wants to see any."""
    if not criterion.needs:
        return None
    if data is None:
        raise MissingEvidence(
            f"the criterion {criteria.name_of(criterion)!r} looks at data (for "
            f"{', '.join(sorted(criterion.needs))}): pass data=, as kezuri.load_data(…) gives, or a dataset "
            "that yields (image, label)"
        )
    if isinstance(data, Data):
        return data
    if isinstance(data, Dataset):
        return from_dataset(data)
    raise UsageError(f"data is a Data or a torch Dataset, got {type(data).__name__}")


def _with_places(model: nn.Module, couplings: Couplings) -> Couplings:
    """The couplings, those blocked where no gate can stand: a gate scales what a module is called with."""
    modules = dict(model.named_modules())
    placeless = [
        coupling.name
        for coupling in couplings.free
        if not coupling.consumers or any(name not in modules for name, _ in coupling.consumers)
    ]
    return blocked(couplings, dict.fromkeys(placeless, "no place for a gate"))


def _pruned(decision: Decision, done: Cut, costs: Costs, rejected: Mapping[str, str]) -> Pruned:
    """What is given back."""
    kept, couplings = decision.proposal, decision.couplings
    before, after = costs.of({}), costs.of(kept)
    own = f"your own module, {type(done.masked).__name__}"
    report = Report(
        rows=rows_of(couplings, kept),
        before=before,
        after=after,
        proof=done.proof,
        result=own if done.rewritten is None else f"a rewritten program, because {done.rewritten}",
        rejected=rejected,
        shortfall=decision.shortfall,
        payoff=decision.payoff,
    )
    return Pruned(
        model=done.model,
        masked=done.masked,
        report=report,
        proof=done.proof.error,
        structure=done.structure,
        couplings=couplings,
        kept=kept,
        before=before,
        after=after,
        rewritten=done.rewritten,
        payoff=decision.payoff,
        inputs=costs.inputs,
    )
