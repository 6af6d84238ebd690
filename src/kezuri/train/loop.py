"""One training step after another: forward, loss, backward, weights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from kezuri.core.errors import TrainingDiverged
from kezuri.core.seeds import derive
from kezuri.data import Batch
from kezuri.train.device import choose_dtype
from kezuri.train.hooks import Hook
from kezuri.train.losses import count_correct, cross_entropy
from kezuri.train.objective import Objective
from kezuri.train.training import Training


@dataclass
class Tally:
    """Running sums over the images of an epoch; the loss is summed, in nats."""

    loss: float = 0.0
    correct: int = 0
    seen: int = 0

    def add(self, other: Self) -> None:
        self.loss += other.loss
        self.correct += other.correct
        self.seen += other.seen

    @property
    def mean_loss(self) -> float:
        return self.loss / self.seen if self.seen else math.nan

    @property
    def accuracy(self) -> float:
        return self.correct / self.seen if self.seen else math.nan


def answer(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Tensor:
    """The logits, (images, classes), computed in channels-last layout and in the given number format."""
    if images.dim() == 4:
        images = images.to(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, dtype=dtype, enabled=dtype != torch.float32):
        logits: Tensor = model(images)
    return logits


class Loop:
    """Makes training steps on a model that is on its device already.

    The random numbers of a step (dropout) follow from the seed and the step's number, so that the steps
    before it, made in this process or not, have no say in them.
    """

    def __init__(
        self,
        model: nn.Module,
        training: Training,
        *,
        parameters: Sequence[Parameter],
        seed: int,
        hooks: Sequence[Hook] = (),
        objective: Objective | None = None,
        epoch_steps: int,
    ) -> None:
        self.model = model
        self.training = training
        self.objective = objective
        self.own = {} if objective is None else dict(objective.tensors())
        self.parameters = [*parameters, *(one for one in self.own.values() if isinstance(one, Parameter))]
        self.device = parameters[0].device
        self.seed = seed
        self.hooks = hooks
        self.epoch_steps = epoch_steps
        self.dtype = choose_dtype(training.precision, self.device)
        self.optimizer = training.optimizer(self.parameters, training.lr)
        # float16 alone needs scaling: its smallest number is far above bfloat16's and float32's
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def lr(self, step: int) -> float:
        """The learning rate of a step: the schedule's value at the middle of the step."""
        progress = (step + 0.5) / self.epoch_steps
        return self.training.lr * self.training.lr_schedule(progress, self.training.epochs)

    def step(self, batch: Batch, step: int) -> Tally:
        """Makes step number `step` (from 0) and says how the batch fared before the weights changed.

        Raises:
            TrainingDiverged: the loss is not finite; the weights are as they were before the step.
        """
        _seed(derive(self.seed, "step", step), self.device)
        for hook in self.hooks:
            hook.before_forward(self.model, step)
        logits, loss, total = self._forward(batch, step)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        if not math.isfinite(value := float(total.detach())):
            raise self.diverged(step, f"the loss is {value}")
        self._change_weights(step)
        seen = len(batch.targets)
        correct = int(count_correct(logits.detach(), batch.targets))
        return Tally(float(loss.detach()) * seen, correct, seen)

    def _forward(self, batch: Batch, step: int) -> tuple[Tensor, Tensor, Tensor]:
        logits = answer(self.model, batch.images, self.dtype)
        if self.objective is None:
            loss = cross_entropy(logits, batch.targets, label_smoothing=self.training.label_smoothing)
        else:
            loss = self.objective(self.model, batch, logits, step)
        total = loss
        for hook in self.hooks:
            penalty = hook.penalty(self.model)
            total = total if penalty is None else total + penalty
        return logits, loss, total

    def _change_weights(self, step: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr(step)
        for hook in self.hooks:
            hook.after_backward(self.model, self.optimizer, step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for hook in self.hooks:
            hook.after_step(self.model, self.optimizer, step)

    def diverged(self, step: int, what: str) -> TrainingDiverged:
        """The error for numbers that stopped being finite: when, what, and which layer came first."""
        named: dict[str, Tensor] = dict(self.model.named_parameters())
        named |= {f"the objective's {name}": tensor for name, tensor in self.own.items()}
        weights = [name for name, weight in named.items() if not _is_finite(weight)]
        gradients = [name for name, weight in named.items() if not _is_finite(weight.grad)]
        first = next(iter(weights or gradients), None)  # a bad weight spoils the gradients of all layers
        return TrainingDiverged(
            f"training diverged in epoch {step // self.epoch_steps + 1}, step {step + 1}: {what} with lr "
            f"{self.training.lr:g} ({self.lr(step):.3g} by then); not finite: {len(weights)} of {len(named)} "
            f"weight tensors and "
            f"{len(gradients)} of {len(named)} gradient tensors"
            + (f", first {first}" if first else "")
            + "; try a lower lr or a longer warmup"
        )


def _seed(seed: int, device: torch.device) -> None:
    # torch.manual_seed would also write down a stack trace for each kind of device that is not there
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def _is_finite(tensor: Tensor | None) -> bool:
    return tensor is None or bool(torch.isfinite(tensor).all())
