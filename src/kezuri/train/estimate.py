"""How long a training will take, measured before it starts."""

import copy
import time
from contextlib import ExitStack
from itertools import islice, pairwise

import torch
from torch import nn

from kezuri.core.errors import DataError
from kezuri.core.seeds import derive
from kezuri.data import Data, batch_count
from kezuri.train.device import Device, choose_device, choose_dtype, out_of_memory
from kezuri.train.lending import lent, random_state_kept
from kezuri.train.loop import answer
from kezuri.train.losses import cross_entropy
from kezuri.train.objective import Objective, Start
from kezuri.train.training import Training

TIMED_STEPS = 2


def estimate_step_seconds(
    model: nn.Module,
    data: Data,
    training: Training,
    device: Device = "auto",
    objective: Objective | None = None,
) -> float:
    """The time of a training step, from the fastest of a few forward and backward passes of a copy.

    Model, random state and device are left as they are. The change of the weights is not timed: it takes far
    less, and the first optimizer of a process costs a second of imports.

    Raises:
        DataError: too few images for one step.
        ResourceError: memory ran out.
        UsageError: there is no such device.
    """
    where = choose_device(device)
    epoch_steps = batch_count(len(data.train), training.batch_size, training=True)
    if epoch_steps == 0:
        raise DataError(f"{len(data.train)} training images are too few to train on")
    twin = copy.deepcopy(model)
    dtype = choose_dtype(training.precision, where)
    with ExitStack() as stack:
        stack.enter_context(lent(twin, where))
        stack.enter_context(out_of_memory(training.batch_size))
        stack.enter_context(random_state_kept(where))
        if objective is not None:
            images = torch.zeros(2, *data.image_shape, device=where)
            start = Start(training, seed=0, dtype=dtype, epoch_steps=epoch_steps, images=images)
            stack.enter_context(objective.begun(twin, start))
        twin.train()
        batches = data.train.batches(
            training.batch_size, seed=derive(0, "estimate"), augment=training.augment, device=where
        )
        times = [time.monotonic()]
        for batch in islice(batches, TIMED_STEPS):
            logits = answer(twin, batch.images, dtype)
            if objective is None:
                loss = cross_entropy(logits, batch.targets)
            else:
                loss = objective(twin, batch, logits, 0)
            if loss.requires_grad:
                torch.autograd.backward(loss)
            float(loss.detach())  # waits for the device
            times.append(time.monotonic())
    return min(after - before for before, after in pairwise(times))
