"""The training loop that everything here trains with: plain training, PCAS's gates, finetuning."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch
from torch import nn
from torch.nn import Parameter
from torch.nn.modules.batchnorm import _BatchNorm

from kezuri.core.errors import DataError, Interrupted, KezuriWarning, UsageError
from kezuri.core.interruption import held_back
from kezuri.core.progress import NullProgress, Progress
from kezuri.core.seeds import derive
from kezuri.data import Data, batch_count
from kezuri.model.modes import NormMode
from kezuri.train.checkpoint import Cadence, Checkpoints
from kezuri.train.device import Device, choose_device, choose_dtype, out_of_memory
from kezuri.train.evaluate import evaluate, evaluate_in_place
from kezuri.train.hooks import Hook
from kezuri.train.lending import lent, only_trained, random_state_kept, to_train
from kezuri.train.loop import Loop, Tally
from kezuri.train.objective import Objective, Start
from kezuri.train.state import (
    EpochRecord,
    State,
    copy_of_weights,
    environment,
    identity,
    load_weights_,
    pack,
    unpack_,
)
from kezuri.train.training import Training


@dataclass(frozen=True)
class Fitted:
    """How a training went.

    Attributes:
        best_accuracy: validation accuracy of the weights it ended with (a fraction).
        train_accuracy: accuracy while training, in the epoch those weights are from (a fraction).
        epochs: one record an epoch.
        seconds: time spent, over all resumes.
    """

    best_accuracy: float
    train_accuracy: float
    epochs: list[EpochRecord]
    seconds: float


def fit(
    model: nn.Module,
    data: Data,
    training: Training,
    *,
    seed: int,
    device: Device = "auto",
    hooks: Sequence[Hook] = (),
    parameters: Iterable[Parameter] | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    frozen_batchnorm: bool = False,
    objective: Objective | None = None,
) -> Fitted:
    """Trains a model in place; the same arguments give the same weights, bit for bit.

    Afterwards the model is on the device and in the mode it came in, without gradients. Global random
    state is left as found. Bit-identity holds for one machine, thread count and PyTorch version.

    Args:
        data: trained on `data.train`; `data.validation` is evaluated after each epoch.
        seed: decides the order of the images, their augmentation and dropout.
        hooks: called at fixed moments of each step, in this order.
        parameters: train these and freeze all others; by default, all that require a gradient.
        checkpoint: a folder of this training's own. Progress is saved there every 20 seconds or so and
            a later call with the same arguments goes on from it, or returns at once when it was finished.
        frozen_batchnorm: BatchNorm layers use their running statistics and leave them as they are.
        objective: what is made small; by default the cross-entropy with the training's label smoothing.

    Raises:
        TrainingDiverged: the loss or a weight is not finite. The last checkpoint is from before.
        Interrupted: Ctrl-C; the state was saved if there is a `checkpoint`.
        ResourceError: memory or disk ran out.
        UsageError: nothing to train, or the checkpoint belongs to a different training.
        DataError: too few images for one step, or none to validate on.
    """
    where = choose_device(device)
    epoch_steps = batch_count(len(data.train), training.batch_size, training=True)
    if epoch_steps == 0:
        raise DataError(f"{len(data.train)} training images are too few to train on")
    if training.epochs == 0:
        return _only_evaluated(model, data, where)
    trained = to_train(model, parameters)
    with ExitStack() as stack:
        stack.enter_context(lent(model, where))
        stack.enter_context(out_of_memory(training.batch_size))
        stack.enter_context(only_trained(model, trained))
        stack.enter_context(random_state_kept(where))
        if objective is not None:
            dtype = choose_dtype(training.precision, where)
            images = torch.zeros(2, *data.image_shape, device=where)
            start = Start(training, seed=seed, dtype=dtype, epoch_steps=epoch_steps, images=images)
            stack.enter_context(objective.begun(model, start))
        loop = Loop(
            model,
            training,
            parameters=trained,
            seed=seed,
            hooks=hooks,
            objective=objective,
            epoch_steps=epoch_steps,
        )
        run = _Fit(
            loop,
            data,
            checkpoint=checkpoint,
            progress=progress or NullProgress(),
            frozen_batchnorm=frozen_batchnorm,
        )
        return run.run()


class _Fit:
    def __init__(
        self,
        loop: Loop,
        data: Data,
        *,
        checkpoint: Path | None,
        progress: Progress,
        frozen_batchnorm: bool,
    ) -> None:
        self.loop = loop
        self.data = data
        self.progress = progress
        self.frozen_batchnorm = frozen_batchnorm
        self.steps = max(1, round(loop.training.epochs * loop.epoch_steps))
        self.state = State()
        self.checkpoints = None if checkpoint is None else Checkpoints(checkpoint)
        self.cadence = Cadence()
        self.whole = True  # False while a step is half made: such a state must not be saved
        self.watched = [name for name, tensor in self._floats() if bool(torch.isfinite(tensor).all())]

    def run(self) -> Fitted:
        self._resume()
        if not self.state.finished:
            self.progress.start("train", total=self.steps, done=self.state.step)
            try:
                with held_back() as interrupted:
                    self._train(interrupted)
            except KeyboardInterrupt as error:
                raise self._interrupted() from error
            finally:
                self.progress.done()
        kept = self.state.best_record() if self.loop.training.keep == "best" else self.state.records[-1]
        return Fitted(kept.validation_accuracy, kept.train_accuracy, self.state.records, self.state.seconds)

    def _train(self, interrupted: Callable[[], bool]) -> None:
        epochs = math.ceil(self.steps / self.loop.epoch_steps)
        for epoch in range(len(self.state.records), epochs):
            self._epoch(epoch, interrupted)
            if epoch + 1 < epochs and self.cadence.due(epoch_ended=True):
                self._save()
        if self.loop.training.keep == "best":
            load_weights_(self.loop.model, self.state.best)
        self.state.finished = True
        self._save()

    def _epoch(self, epoch: int, interrupted: Callable[[], bool]) -> None:
        training, state = self.loop.training, self.state
        self._enter_training_mode()
        first = epoch * self.loop.epoch_steps
        planned = min(self.loop.epoch_steps, self.steps - first)
        batches = self.data.train.batches(
            training.batch_size,
            seed=derive(self.loop.seed, "epoch", epoch),
            augment=training.augment,
            device=self.loop.device,
            start=state.step - first,
        )
        clock = time.monotonic()
        for batch in islice(batches, planned - (state.step - first)):
            self.whole = False
            tally = self.loop.step(batch, state.step)
            state.tally.add(tally)
            state.step += 1
            clock = self._spend(clock)
            self.whole = True
            self._tell(epoch, tally)
            if interrupted():
                raise KeyboardInterrupt
            if self.checkpoints is not None and self.cadence.due(epoch_ended=False):
                self._save()
                clock = time.monotonic()
        self._close(epoch, clock)

    def _close(self, epoch: int, clock: float) -> None:
        state = self.state
        self._check_weights()
        evaluation = evaluate_in_place(self.loop.model, self.data.validation, device=self.loop.device)
        self._spend(clock)
        record = EpochRecord(
            epoch + 1, state.tally.mean_loss, state.tally.accuracy, evaluation.accuracy, state.epoch_seconds
        )
        state.records.append(record)
        if self.loop.training.keep == "best" and state.best_record() is record:
            state.best = copy_of_weights(self.loop.model)
        state.tally, state.epoch_seconds = Tally(), 0.0
        self.progress.advance(0, {"epoch": epoch + 1, "validation_accuracy": evaluation.accuracy})

    def _spend(self, since: float) -> float:
        now = time.monotonic()
        self.state.epoch_seconds += now - since
        self.state.seconds += now - since
        return now

    def _tell(self, epoch: int, tally: Tally) -> None:
        figures = {
            "epoch": epoch + 1,
            "loss": tally.mean_loss,
            "accuracy": tally.accuracy,
            "lr": self.loop.lr(self.state.step - 1),
        }
        self.progress.advance(1, figures)

    def _enter_training_mode(self) -> None:
        self.loop.model.train()
        if self.frozen_batchnorm:
            for module in self.loop.model.modules():
                if isinstance(module, (_BatchNorm, NormMode)):
                    module.eval()

    def _floats(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self.loop.model.state_dict().items():
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                yield name, tensor

    def _check_weights(self) -> None:
        tensors = dict(self._floats())
        # a mask of -inf that the model came with is none of our business
        bad = [name for name in self.watched if not bool(torch.isfinite(tensors[name]).all())]
        if bad:
            raise self.loop.diverged(self.state.step - 1, f"{bad[0]} holds values that are not finite")

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        self._check_weights()
        began = time.monotonic()
        tensors, about = pack(self.state, self.loop)
        about |= {"identity": self._identity, "environment": environment(self.loop.device)}
        self.checkpoints.write(tensors, about)
        self.cadence.wrote(time.monotonic() - began)

    def _resume(self) -> None:
        snapshot = None if self.checkpoints is None else self.checkpoints.read()
        if snapshot is None or self.checkpoints is None:
            return
        found, wanted = snapshot.about["identity"], self._identity
        different = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
        if different:
            raise UsageError(
                f"{self.checkpoints.folder} holds a different training (not the same: "
                f"{', '.join(different)}); use another folder, or remove this one"
            )
        then, now = snapshot.about["environment"], environment(self.loop.device)
        if then != now:
            changes = ", ".join(f"{key} {then[key]} → {now[key]}" for key in now if then[key] != now[key])
            warnings.warn(
                f"resuming under other conditions ({changes}): the result may differ in the last digits from "
                f"an uninterrupted training",
                KezuriWarning,
                stacklevel=4,
            )
        self.state = unpack_(snapshot, self.loop)

    @cached_property
    def _identity(self) -> dict[str, object]:
        return identity(self.loop, self.data.fingerprint, frozen_batchnorm=self.frozen_batchnorm)

    def _interrupted(self) -> Interrupted:
        if self.whole:
            self._save()
        what = f"training was interrupted after {self.state.step} of {self.steps} steps"
        if self.checkpoints is None:
            return Interrupted(what)
        return Interrupted(f"{what}; run the same again to go on from {self.checkpoints.folder}")


def _only_evaluated(model: nn.Module, data: Data, device: torch.device) -> Fitted:
    began = time.monotonic()
    validation = evaluate(model, data.validation, device=device)
    train = evaluate(model, data.train, device=device)
    return Fitted(validation.accuracy, train.accuracy, [], time.monotonic() - began)
