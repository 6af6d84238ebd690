"""What can be known about a recipe before it runs: whether it fits, how long it takes, what it needs."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kezuri.artifact.folder import RunFolder
from kezuri.core.errors import ResourceError, UsageError
from kezuri.measure.macs import count_macs, count_params
from kezuri.model.modes import evaluating
from kezuri.recipe.foresight import (
    check_ignored,
    check_order,
    check_trainings,
    foresee,
    images_at_once,
    rehearse,
    warnings_of,
)
from kezuri.recipe.prepare import Prepared
from kezuri.recipe.requantizing import quantized_before
from kezuri.recipe.run import resources_of
from kezuri.recipe.sample_size import doubts

_SECONDS_TO_FINISH = 30.0  # export, parity and latency of two models


@dataclass(frozen=True)
class Estimate:
    """What a run will need.

    Attributes:
        seconds: compute, from timed batches of the model as it is; rounds that cut get faster than this.
        memory: bytes at the peak of training: weights, gradients, momentum, activations of a batch.
        available: bytes of memory free now, if the system tells.
        disk: bytes the run folder will take at most.
        params: of the model it begins with.
        macs: of that model for one image; None unless it was traced.
        warnings: settings that are allowed but known to fail.
    """

    seconds: float
    memory: float
    available: float | None
    disk: float
    params: int
    macs: int | None
    warnings: list[str]


def estimate(prepared: Prepared, runs: Path, *, trace: bool = False) -> Estimate:
    """Times a few batches and adds up, in about the time that PyTorch takes to load.

    Args:
        prepared: the recipe with its inputs.
        runs: the folder that is to hold the run.
        trace: also follow the model as the steps that cut will, and export it; takes seconds, and is the
            first thing a run does.

    Raises:
        ResourceError: the disk that holds `runs` has less room than the run needs.
        ModelError, UsageError: the steps cannot work on this model.
    """
    if not _existing(runs).is_dir():
        raise UsageError(f"{runs} cannot hold runs: {_existing(runs)} is a file")
    resources = resources_of(prepared, RunFolder(runs / prepared.run_name))
    check_order(prepared.recipe)
    check_ignored(prepared, resources)
    if trace:
        foresee(prepared, resources)
    else:
        check_trainings(prepared, resources)
    scenes = rehearse(prepared, resources)
    seconds = sum(scene.step.seconds(scene.before, scene.resources) for scene in scenes) + _SECONDS_TO_FINISH
    for scene, (_, quantize) in zip(scenes, quantized_before(prepared.recipe), strict=True):
        seconds += 0.0 if quantize is None else quantize.seconds(scene.before, scene.resources)
    count = count_params(prepared.model)
    have = len(prepared.data.train)
    batch = max(images_at_once(step, have) for step in prepared.recipe.steps)
    at_once = max(getattr(step, "at_once", 1) for step in prepared.recipe.steps)
    memory = at_once * (16.0 * count + _activations(prepared.model, prepared.data.image_shape) * batch)
    rounds = max(getattr(step, "rounds", 1) for step in prepared.recipe.steps)
    copies = sum(getattr(step, "copies", 0) for step in prepared.recipe.steps)
    disk = 4.0 * count * (8 + min(rounds, 3) + copies) + 5e6
    free = shutil.disk_usage(_existing(runs)).free
    if free < disk:
        raise ResourceError(
            f"the run needs about {disk / 1e6:,.0f} MB in {runs}, {free / 1e6:,.0f} MB are free"
        )
    return Estimate(
        seconds,
        memory,
        _available(),
        disk,
        count,
        count_macs(prepared.model, prepared.data.image_shape) if trace else None,
        [*warnings_of(prepared, resources), *doubts(prepared)],
    )


def _activations(model: nn.Module, image_shape: tuple[int, int, int]) -> float:
    """Bytes that training keeps for the backward pass, for one image."""
    kept: dict[int, int] = {}
    own = {parameter.data_ptr() for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    device = next(model.parameters()).device
    with evaluating(model), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.zeros(2, *image_shape, device=device))
    return sum(kept.values()) / 2


def _available() -> float | None:
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return None


def _existing(path: Path) -> Path:
    path = path.resolve()
    while not path.exists():
        path = path.parent
    return path
