"""How long a training will take, measured before it starts."""

import copy
import time
from itertools import islice, pairwise
from statistics import median

from torch import nn

from kezuri.core.errors import DataError
from kezuri.core.seeds import derive
from kezuri.data import Data, batch_count
from kezuri.train.device import Device, choose_device, out_of_memory
from kezuri.train.lending import lent, random_state_kept, to_train
from kezuri.train.loop import Loop
from kezuri.train.training import Training

TIMED_STEPS = 5


def estimate_step_seconds(model: nn.Module, data: Data, training: Training, device: Device = "auto") -> float:
    """The median time of a training step, from a few real ones on a copy of the model.

    Model, random state and device are left as they are. The first step, which is slower, is not counted.

    Raises:
        DataError: too few images for one step.
        ResourceError: memory ran out.
        UsageError: there is no such device, or nothing to train.
    """
    where = choose_device(device)
    epoch_steps = batch_count(len(data.train), training.batch_size, training=True)
    if epoch_steps == 0:
        raise DataError(f"{len(data.train)} training images are too few to train on")
    twin = copy.deepcopy(model)
    with lent(twin, where), out_of_memory(training.batch_size), random_state_kept(where):
        twin.train()
        loop = Loop(twin, training, parameters=to_train(twin), seed=0, epoch_steps=epoch_steps)
        batches = data.train.batches(
            training.batch_size, seed=derive(0, "estimate"), augment=training.augment, device=where
        )
        times = [time.monotonic()]
        for step, batch in enumerate(islice(batches, TIMED_STEPS + 1)):
            loop.step(batch, step)
            times.append(time.monotonic())
    seconds = [after - before for before, after in pairwise(times)]
    return median(seconds[1:] or seconds)
