"""How long a training will take, measured before it starts."""

import copy
import time
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
from kezuri.train.training import Training

TIMED_STEPS = 2


def estimate_step_seconds(model: nn.Module, data: Data, training: Training, device: Device = "auto") -> float:
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
    with lent(twin, where), out_of_memory(training.batch_size), random_state_kept(where):
        twin.train()
        dtype = choose_dtype(training.precision, where)
        batches = data.train.batches(
            training.batch_size, seed=derive(0, "estimate"), augment=training.augment, device=where
        )
        times = [time.monotonic()]
        for batch in islice(batches, TIMED_STEPS):
            loss = cross_entropy(answer(twin, batch.images, dtype), batch.targets)
            if loss.requires_grad:
                torch.autograd.backward(loss)
            float(loss.detach())  # waits for the device
            times.append(time.monotonic())
    return min(after - before for before, after in pairwise(times))
