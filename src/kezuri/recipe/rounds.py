"""One round of pruning: gather evidence, choose, cut with proof or mask, retrain, measure."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from kezuri.core.errors import KezuriError, UsageError
from kezuri.core.measurement import Measurement
from kezuri.core.seeds import derive
from kezuri.measure.accuracy import accuracy_measurement
from kezuri.measure.latency import latency
from kezuri.measure.macs import cost
from kezuri.measure.size import weights_size
from kezuri.measure.sparsity import sparsity
from kezuri.model.coupling import Couplings, couple
from kezuri.model.proof import Proof, cut
from kezuri.prune.evidence import Evidence
from kezuri.prune.gather import gather
from kezuri.prune.masks import Masks
from kezuri.recipe.choosing import Chosen
from kezuri.recipe.proposing import blocked
from kezuri.recipe.step import ModelState, Resources
from kezuri.recipe.teaching import objective_of
from kezuri.runtime.export import export_onnx
from kezuri.runtime.runner import file_runner
from kezuri.train import evaluate, fit
from kezuri.train.chance import chance_accuracy

if TYPE_CHECKING:
    from kezuri.recipe.steps.prune import Prune


@dataclass(frozen=True)
class Prospect:
    """What a round learnt about the model before it removes anything; every attempt of the round shares it.

    Attributes:
        couplings: what must be cut together; None where nothing is cut.
        evidence: what the criterion asked for.
        seconds: how long it took.
    """

    couplings: Couplings | None
    evidence: Mapping[str, Evidence]
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """A model after one attempt at a round.

    Attributes:
        state: the retrained model.
        accuracy: on the validation images, as a fraction.
        size: bytes of its weights.
        latency: milliseconds an image in the goal's runtime on one thread, where it was asked for.
        measurements: all that was measured.
        layers: channels of each layer since the recipe began, with the reason where nothing may be cut.
    """

    state: ModelState
    accuracy: float
    size: float
    latency: float | None
    measurements: list[Measurement]
    layers: list[dict[str, Any]]


def survey(plan: "Prune", state: ModelState, resources: Resources, *, seed: int) -> Prospect:
    """Couples the model's channels and gathers the criterion's evidence."""
    begin = perf_counter()
    couplings = coupled(plan, state, resources)
    evidence = gather(
        state.model,
        plan.criterion,
        resources.data,
        couplings=plan.candidates(couplings),
        batch_size=plan.finetune.batch_size,
        seed=seed,
        device=resources.device,
        progress=resources.listener,
    )
    return Prospect(couplings, evidence, perf_counter() - begin)


def baseline(
    plan: "Prune", state: ModelState, resources: Resources
) -> tuple[float, float, list[Measurement]]:
    """Validation accuracy, size and all measurements of the model before the first round.

    Raises:
        UsageError: the model is not trained.
    """
    masked = state.masks is not None or not plan.granularity.coupled
    accuracy, size, measurements = _describe(state, resources, masked=masked)
    check_trained(accuracy, resources.data.validation.labels)
    return (
        accuracy,
        size,
        measurements + _widths(_layers(plan, state, coupled(plan, state, resources), {}, resources)),
    )


def coupled(plan: "Prune", state: ModelState, resources: Resources) -> Couplings | None:
    """The model's couplings; None where nothing is cut.

    Raises:
        KezuriError: weights of the model are masked.
    """
    if not plan.cuts:
        return None
    if state.masks is not None:
        raise KezuriError("channels cannot be cut from a masked model yet: cut first, then mask")
    return couple(state.model, resources.example, protect=plan.ignore, progress=resources.listener)


def check_trained(accuracy: float, labels: Tensor) -> None:
    """Refuses a model that answers no better than chance, for which an accuracy to keep means nothing.

    Args:
        accuracy: the model's, as a fraction.
        labels: (N,) int64, of the images it was measured on.

    Raises:
        UsageError: the accuracy is within three standard deviations of always answering the same class.
    """
    chance, least = chance_accuracy(labels)
    if accuracy <= least:
        raise UsageError(
            f"the model is right on {accuracy:.2%} of {len(labels)} validation images, and one that always "
            f"answers the same class on {chance:.2%} (above {least:.2%} it is no chance): it is not trained, "
            f"so there is no accuracy to keep. Train it first (--train-epochs, or a train step with more "
            f"epochs), or give its trained weights"
        )


def attempt(
    plan: "Prune",
    state: ModelState,
    prospect: Prospect,
    chosen: Chosen,
    resources: Resources,
    *,
    round_: int,
    stage: str,
    timed: bool = False,
) -> Outcome:
    """Removes what was chosen, retrains and measures. The state given is not changed."""
    begin = perf_counter()
    smaller, proof, chosen = _remove(state, prospect.couplings, chosen, resources)
    after_cut = evaluate(smaller.model, resources.data.validation, device=resources.device)
    removing = perf_counter() - begin + chosen.seconds
    fitted = fit(
        smaller.model,
        resources.data,
        plan.finetune.training(round_),
        seed=derive(resources.seed, stage, "finetune"),
        device=resources.device,
        checkpoint=resources.stages.checkpoint(stage),
        progress=resources.listener,
        hooks=() if smaller.masks is None else (smaller.masks.hold(),),
        frozen_batchnorm=plan.finetune.freeze_norms,
        objective=objective_of(plan.finetune.distill, resources),
    )
    accuracy, size, measurements = _describe(smaller, resources, masked=smaller.masks is not None)
    couplings = None if prospect.couplings is None else blocked(prospect.couplings, chosen.reasons)
    layers = _layers(plan, state, couplings, chosen.kept or {}, resources)
    before = _accuracy(after_cut, "validation").under(moment="after the cut, before retraining")
    measurements += [
        *_widths(layers),
        Measurement("accuracy_after_cut", before.value, "fraction", samples=before.samples),
    ]
    if proof is not None:
        measurements.append(Measurement("proof_error", proof.error, "relative", samples=proof.inputs))
    ms = _latency(smaller.model, resources) if timed else None
    phases = {"evidence": prospect.seconds, "cut and proof": removing, "finetune": fitted.seconds}
    measurements += [
        *([] if ms is None else [ms]),
        *([] if chosen.latency is None else [replace(chosen.latency, metric="expected_latency")]),
        *(
            Measurement("phase_seconds", value, "s", conditions={"phase": name})
            for name, value in phases.items()
        ),
        Measurement("seconds", prospect.seconds + chosen.seconds + perf_counter() - begin, "s"),
    ]
    return Outcome(smaller, accuracy, size, None if ms is None else ms.value, measurements, layers)


def _remove(
    state: ModelState, couplings: Couplings | None, chosen: Chosen, resources: Resources
) -> tuple[ModelState, Proof | None, Chosen]:
    """Cuts the channels out, with proof, or sets the weights to zero; in a copy. Also says what went."""
    if couplings is None or chosen.kept is None:
        assert chosen.masks is not None
        model = copy.deepcopy(state.model)
        masks = _both(state.masks, chosen.masks)
        masks.apply_(model)
        return replace(state, model=model, masks=masks), None, chosen
    done = cut(state.model, couplings, chosen.kept, resources.example)
    for name, why in done.rejected.items():
        resources.listener.warn(f"{name} was left whole, the proof failed with it: {why}")
    kept = {name: mask for name, mask in chosen.kept.items() if name not in done.rejected}
    reasons = {**chosen.reasons, **{name: f"rejected: {why}" for name, why in done.rejected.items()}}
    smaller = replace(state, model=done.model, structure=state.structure.then(done.structure))
    return smaller, done.proof, replace(chosen, kept=kept, reasons=reasons)


def _both(earlier: Masks | None, later: Masks) -> Masks:
    """What both keep."""
    if earlier is None:
        return later
    shared = {name: mask & earlier[name] if name in earlier else mask for name, mask in later.items()}
    return Masks({**earlier, **shared})


def _describe(
    state: ModelState, resources: Resources, *, masked: bool
) -> tuple[float, float, list[Measurement]]:
    data, device = resources.data, resources.device
    validation = evaluate(state.model, data.validation, device=device)
    train = evaluate(
        state.model, data.train.subset(min(len(data.train), len(data.validation))), device=device
    )
    params, macs = cost(state.model, data.image_shape)
    size = weights_size(state.model)
    rows = [_accuracy(validation, "validation"), _accuracy(train, "train"), params, macs, size]
    if masked:
        rows += sparsity(state.model)
    return validation.accuracy, size.value, rows


def _accuracy(found: Any, split: str) -> Measurement:
    correct = int((found.predictions == found.labels).sum())
    return accuracy_measurement(correct, len(found.labels), split=split)


def _latency(model: nn.Module, resources: Resources) -> Measurement:
    with TemporaryDirectory() as folder:
        path = export_onnx(model, resources.data.image_shape, Path(folder) / "model.onnx")
        session = file_runner(resources.goal.runtime).prepare(path)
        return latency(session, resources.data.image_shape, budget_seconds=3.0)


def _layers(
    plan: "Prune",
    state: ModelState,
    couplings: Couplings | None,
    kept: Mapping[str, Any],
    resources: Resources,
) -> list[dict[str, Any]]:
    """Each layer's channels before the recipe began and now, and what became of them."""
    if couplings is None:
        return []
    dense = dict(resources.fresh(state.spec).named_modules())
    spared = {c.name: c for c in couplings.free if c not in plan.candidates(couplings)}
    whole = {producer for coupling in spared.values() for producer in coupling.producers}
    rows = []
    for row in couplings.explain(kept):
        module = dense.get(row.layer)
        before = getattr(module, "out_channels", getattr(module, "out_features", row.width))
        rows.append(
            {
                "layer": row.layer,
                "before": before,
                "after": row.kept,
                "state": "cut" if row.kept < before else row.state,
                "reason": "a residual sum, left whole (residual: false)"
                if row.layer in whole
                else row.reason,
            }
        )
    return rows


def _widths(layers: list[dict[str, Any]]) -> list[Measurement]:
    return [
        Measurement(
            "channels",
            layer["after"],
            "count",
            conditions={"layer": layer["layer"], "before": layer["before"]},
        )
        for layer in layers
    ]
