"""Runs a study of mask searches: every cell that is not finished, side by side where there are workers."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Generator

from kezuri.artifact.atomic import read_json, sha256_of, write_bytes, write_json
from kezuri.artifact.folder import MaskStudyFolder
from kezuri.core.errors import Interrupted
from kezuri.core.executor import Executor, Inline, Processes
from kezuri.data import Data
from kezuri.data.splits import few_of_each
from kezuri.model.load import check_fits
from kezuri.prune.problem import FixedSparsity
from kezuri.recipe.build import plain
from kezuri.recipe.listener import Listener, SilentListener
from kezuri.recipe.mask_cell import Work, dense_model, is_done, judged, space_of, study_data, training_of
from kezuri.recipe.mask_study import ALL, MaskCell, MaskPlan, dense_digest, mask_cells
from kezuri.recipe.prepare import find_weights
from kezuri.recipe.study_time import spell
from kezuri.runtime.runner import thread_count
from kezuri.train import evaluate, fit

STOPPED = "stopped; nothing is lost, the same command goes on"


def run_mask_study(
    plan: MaskPlan,
    folder: Path,
    *,
    data_root: Path | None = None,
    device: str = "auto",
    workers: int = 1,
    threads: int | None = None,
    listener: Listener | None = None,
) -> MaskStudyFolder:
    """Runs what is not finished of a study; the same call goes on where an earlier one stopped or was killed.

    Results are kept by what they depend on: with more draws, searchers or sparsities, or other retraining,
    what is the same is not done again. A cell that fails is noted, and the others go on.

    Args:
        plan: what is studied.
        folder: where its results lie.
        data_root: the folder data sets lie in.
        device: `auto`, `cpu`, `cuda`, …
        workers: how many cells are done at once; more than one are processes of one thread each.
        threads: for training in this process.
        listener: hears a sentence a cell, and how things go.

    Raises:
        DataError: data or weights are missing or damaged, or a class has too few images.
        UsageError: the model cannot be built, nothing of it can be removed, or a setting is out of range.
        Interrupted, ResourceError: the study stopped, and the same call goes on.
    """
    executor: Executor = Inline() if workers == 1 else Processes(workers)
    listener = listener or SilentListener()
    if threads is not None:
        torch.set_num_threads(thread_count(threads))
    study_data.cache_clear()  # a folder of images may have changed since
    data = study_data(plan.data, data_root)
    weights = None if plan.model.weights is None else find_weights(plan.model.weights, None)
    _check(plan, data, weights)
    home = MaskStudyFolder(folder)
    if weights is None:
        weights = _train(plan, data, home, device=device, listener=listener)
    inputs = {"data": data.fingerprint, "weights": sha256_of(weights)}
    study = _Study(home, plan, mask_cells(plan, inputs), listener)
    study.begin(data, evaluate(dense_model(plan, data, weights), judged(data), device=device).accuracy)
    progress = listener if workers == 1 else None
    work = Work(plan, folder, weights, data_root=data_root, device=device, progress=progress)
    try:
        study.run(work, executor)
    except (Interrupted, KeyboardInterrupt) as error:
        raise Interrupted(STOPPED) from error
    return home


def _check(plan: MaskPlan, data: Data, weights: Path | None) -> None:
    """Everything that can be known before any work."""
    model = dense_model(plan, data, weights)
    check_fits(model, data.image_shape, len(data.classes))
    for count in plan.few:
        few_of_each(data.train.labels, count, classes=data.train.classes, seed=0)
    if not getattr(plan.criterion, "epochs", 0):  # PCAS trains gates, for which the model must be trained
        space = space_of(plan, model, data)
        for searcher in plan.searchers.values():
            problem, generator = FixedSparsity(max(plan.sparsities)), Generator().manual_seed(0)
            searcher.begin(space, problem, evaluations=plan.evaluations, generator=generator)


def _train(plan: MaskPlan, data: Data, home: MaskStudyFolder, *, device: str, listener: Listener) -> Path:
    """The weights of the dense model, trained where they are not there yet."""
    digest = dense_digest(plan, {"data": data.fingerprint})
    path = home.weights(digest)
    if not path.is_file():
        model = dense_model(plan, data, None)
        training = training_of(plan, plan.train_epochs, lr=plan.lr)
        listener.say(f"training {plan.model.use} for {plan.train_epochs:g} epochs")
        checkpoint = home.path / f"{path.stem}.part"
        try:
            fit(model, data, training, seed=0, device=device, checkpoint=checkpoint, progress=listener)
        except Interrupted as error:
            raise Interrupted(STOPPED) from error
        kept = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        write_bytes(path, safetensors.torch.save(kept))
        shutil.rmtree(checkpoint, ignore_errors=True)
    return path


class _Study:
    """The cells of a study, and what is told of them."""

    def __init__(
        self, home: MaskStudyFolder, plan: MaskPlan, cells: Sequence[MaskCell], listener: Listener
    ) -> None:
        self.home, self.plan, self.cells, self.listener = home, plan, cells, listener
        self.reasons: dict[str, str] = {}
        self.known: dict[str, Any] = {}

    def begin(self, data: Data, dense: float) -> None:
        """Writes down what is studied."""
        split = "validation" if data.test is None else "test"
        self.known = {"plan": plain(self.plan), "split": split, "dense": dense, "data": data.describe()}
        self._note()
        self.listener.say(f"dense: {dense:.2%} {split} accuracy")

    def run(self, work: Work, executor: Executor) -> None:
        """Does what is left."""
        left = [cell for cell in self.cells if not is_done(self.home, cell)]
        done, began = len(self.cells) - len(left), time.monotonic()
        if done:
            self.listener.say(f"{done} of {len(self.cells)} searches are done already")
        for number, (place, reason) in enumerate(executor.completed(work, left), start=1):
            cell = left[place]
            if reason is not None:
                self.reasons[cell.folder] = reason
                self._note()
            told = self._told(cell) if reason is None else f"failed: {reason}"
            ahead = (time.monotonic() - began) / number * (len(left) - number)
            self.listener.say(
                f"{done + number:>5}/{len(self.cells)}  {cell.searcher}, {cell.sparsity * 100:g} %, draw "
                f"{cell.draw}: {told}" + (f"; about {spell(ahead)} left" if number < len(left) else "")
            )

    def _told(self, cell: MaskCell) -> str:
        home = self.home.cell(cell.folder)
        parts = [f"before {read_json(home.search)['accuracy']:.2%}"]
        for stage, name in cell.retrained.items():
            accuracy = read_json(home.retrained(name))["accuracy"]
            parts.append(f"{stage if stage == ALL else f'{stage} a class'} {accuracy:.2%}")
        return ", ".join(parts)

    def _note(self) -> None:
        cells = [{**plain(cell), "reason": self.reasons.get(cell.folder)} for cell in self.cells]
        write_json(self.home.record, {**self.known, "cells": cells})
