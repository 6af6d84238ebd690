"""One member of a population at work: it changes its mask, trains, and is judged."""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kezuri.core.errors import TrainingDiverged
from kezuri.core.seeds import derive
from kezuri.model.modes import NormMode
from kezuri.prune.exploring import Raised, Task, of_member
from kezuri.prune.mask_operators import sample, swap, temperature_of
from kezuri.prune.mask_space import pooled
from kezuri.prune.masks import Masks
from kezuri.prune.space import Space
from kezuri.train.checkpoint import Cadence, Snapshot
from kezuri.train.evaluate import evaluate_in_place
from kezuri.train.lending import to_train
from kezuri.train.loop import Loop
from kezuri.train.losses import cross_entropy
from kezuri.train.state import State, load_weights_, pack, unpack_

if TYPE_CHECKING:
    from kezuri.prune.raising import Raising

KEPT = "kept"


class Member:
    """One member at work; the model is on its device."""

    def __init__(self, plan: "Raising", task: Task, model: nn.Module) -> None:
        self.plan, self.task, self.model = plan, task, model
        self.checkpoints = plan.checkpoints(task.generation, task.member)
        self.cadence = Cadence()
        self.seed = derive(plan.seed, "member", task.member)
        self.so_far = Raised(task.generation, task.member, task.parent, task.lr, task.weight_decay)
        self.state = State(step=task.first)

    def raised(self) -> Raised:
        snapshot = self._own()
        if snapshot is not None and snapshot.about["finished"]:
            return Raised(**snapshot.about["raised"])
        began = time.monotonic()
        try:
            if snapshot is None:
                self._begin()
            else:
                self._go_on(snapshot)
            self._train()
            ended = self._judged()
        except TrainingDiverged as error:
            return replace(self.so_far, diverged=str(error), seconds=time.monotonic() - began)
        self.so_far = replace(ended, seconds=time.monotonic() - began)
        self._save(finished=True)
        return self.so_far

    def _own(self) -> Snapshot | None:
        """What an earlier attempt at this task left."""
        snapshot = self.checkpoints.read()
        return snapshot if snapshot is not None and snapshot.about["task"] == asdict(self.task) else None

    def _begin(self) -> None:
        """The model before the first step: as it is at first, later a parent's with some units exchanged."""
        plan, task = self.plan, self.task
        generator = Generator().manual_seed(derive(self.seed, "mask", task.generation))
        if task.parent is None:
            temperature = temperature_of(task.member, plan.temperatures)
            self._hold(sample(plan.space, plan.sparsity, temperature, generator))
            return
        snapshot = plan.kept_of(task.generation - 1, task.parent)
        kept = snapshot.tensors.pop(KEPT)
        weights = _group(snapshot.tensors, "model.")
        load_weights_(self.model, weights)
        count = round(task.swap * int(kept.sum()))
        if count:
            space = self._seen_now(weights)
            by = "gradient" if plan.growth else "worth"
            changed = swap(kept, count, space, plan.sparsity, generator, by=by)  # type: ignore[arg-type]
            kept, swapped = changed, int((changed & ~kept).sum())
            self.so_far = replace(self.so_far, swapped=swapped)
        self._hold(kept)
        unpack_(snapshot, self.loop)
        self.masks.apply_(self.model)

    def _go_on(self, snapshot: Snapshot) -> None:
        self._hold(snapshot.tensors.pop(KEPT))
        self.state = unpack_(snapshot, self.loop)
        self.so_far = Raised(**snapshot.about["raised"])

    def _hold(self, kept: Tensor) -> None:
        """From here on the removed weights are zero."""
        plan, task = self.plan, self.task
        device = next(self.model.parameters()).device
        self.kept = kept
        self.masks = Masks({name: mask.to(device) for name, mask in plan.space.masks(kept).items()})
        self.loop = Loop(
            self.model,
            of_member(plan.training, task.lr, task.weight_decay),
            parameters=to_train(self.model),
            seed=self.seed,
            hooks=[*plan.hooks, self.masks.hold()],
            objective=plan.objective,
            epoch_steps=plan.epoch_steps,
        )
        self.masks.apply_(self.model)

    def _train(self) -> None:
        self.model.train()
        if self.plan.frozen_batchnorm:
            for module in self.model.modules():
                if isinstance(module, (_BatchNorm, NormMode)):
                    module.eval()
        while self.state.step < self.task.last:
            epoch, done = divmod(self.state.step, self.plan.epoch_steps)
            batches = self.plan.train.batches(
                self.plan.training.batch_size,
                seed=derive(self.seed, "epoch", epoch),
                augment=self.plan.training.augment,
                device=self.loop.device,
                start=done,
            )
            for batch in islice(batches, self.task.last - self.state.step):
                self.state.tally.add(self.loop.step(batch, self.state.step))
                self.state.step += 1
                if self.cadence.due(epoch_ended=False):
                    self._save()

    def _judged(self) -> Raised:
        for name, weight in self.model.named_parameters():
            if not bool(torch.isfinite(weight).all()):
                raise self.loop.diverged(self.state.step - 1, f"{name} holds values that are not finite")
        found = evaluate_in_place(self.model, self.plan.judged, device=self.loop.device)
        if not math.isfinite(found.loss):
            raise self.loop.diverged(self.state.step - 1, f"the loss of the images set aside is {found.loss}")
        ended = replace(
            self.so_far,
            train_loss=self.state.tally.mean_loss,
            accuracy=found.accuracy,
            loss=found.loss,
            weights=self.masks.total - self.masks.removed,
        )
        self.state = State(step=self.state.step)
        return ended

    def _save(self, *, finished: bool = False) -> None:
        began = time.monotonic()
        tensors, about = pack(self.state, self.loop)
        about |= {"task": asdict(self.task), "raised": asdict(self.so_far), "finished": finished}
        self.checkpoints.write({**tensors, KEPT: self.kept}, about)
        self.cadence.wrote(time.monotonic() - began)

    def _seen_now(self, weights: Mapping[str, Tensor]) -> Space:
        """The space with units worth what they were, times how much their weights have grown since."""
        space, scores, growth = self.plan.space, {}, []
        gradients = self._gradients() if self.plan.growth else {}
        sizes = {name: weights[name].abs() for name in space.weights}
        for group in space.groups:
            now, then = (pooled(group, each) for each in (sizes, space.weights))
            grown = torch.where((now > 0) & (then > 0), now / then, 1.0)
            scores[group.name] = space.contest.scores[group.name].cpu() * grown
            if gradients:
                growth.append(pooled(group, gradients))
        contest = replace(space.contest, scores=scores)
        return replace(space, contest=contest, growth=torch.cat(growth) if growth else None)

    def _gradients(self) -> dict[str, Tensor]:
        """How hard the loss of one batch pulls at every weight that a mask may have removed."""
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        names = list(self.plan.space.weights)
        seed = derive(self.seed, "growth", self.task.generation)
        device = next(self.model.parameters()).device
        batch = next(iter(self.plan.train.batches(self.plan.training.batch_size, seed=seed, device=device)))
        self.model.eval()
        loss = cross_entropy(self.model(batch.images), batch.targets)
        found = torch.autograd.grad(loss, [parameters[name] for name in names], allow_unused=True)
        return {
            name: torch.zeros_like(parameters[name]) if one is None else one.abs()
            for name, one in zip(names, found, strict=True)
        }


def weights_in(snapshot: Snapshot) -> tuple[dict[str, Tensor], Tensor]:
    """The weights and buffers of a member by name, and the flags of the units it keeps."""
    return _group(snapshot.tensors, "model."), snapshot.tensors[KEPT]


def _group(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
