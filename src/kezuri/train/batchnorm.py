"""Running statistics of BatchNorm, computed anew for weights that changed."""

from itertools import islice

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from kezuri.core.seeds import derive
from kezuri.data import Part
from kezuri.train.device import Device, choose_device, out_of_memory
from kezuri.train.lending import lent


def reestimate_batchnorm_(
    model: nn.Module,
    part: Part,
    *,
    seed: int,
    batches: int = 50,
    batch_size: int = 128,
    device: Device = "auto",
) -> None:
    """Replaces the running mean and variance of every BatchNorm by their average over some images.

    Channels that were cut or masked shift the activations of those that stay; this repairs the statistics
    without touching a weight. Each batch counts the same; dropout is off. A model without BatchNorm is left
    as it is.

    Args:
        part: the images, usually the training part; they are not augmented.
        seed: decides which images are taken.
        batches: how many batches, or all the part has if it has fewer.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [layer.momentum for layer in layers]
    where = choose_device(device)
    with lent(model, where), out_of_memory(batch_size):
        model.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # torch's way to ask for a cumulative average
            layer.train()
        try:
            stream = part.batches(batch_size, seed=derive(seed, "batchnorm"), device=where)
            for batch in islice(stream, batches if layers else 0):
                with torch.no_grad(), torch.autocast(where.type, enabled=False):
                    model(batch.images)
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
