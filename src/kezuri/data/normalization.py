"""The mean and the standard deviation that images are normalised by."""

import math
from collections.abc import Sequence

import torch

from kezuri.core.errors import UsageError
from kezuri.data.parts import Part

Normalization = tuple[Sequence[float], Sequence[float]]

_SAMPLE = 10_000  # images, spread evenly, that stand for all training images


def normalization(train: Part, given: Normalization | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel: as given, or of up to 10,000 training images.

    A channel that never changes has no deviation to divide by and gets 1.

    Raises:
        UsageError: what was given does not fit the channels, or a deviation is not above 0.
    """
    if given is None:
        return _moments(train)
    channels = train.image_shape[0]
    mean, std = (tuple(float(value) for value in values) for values in given)
    if len(mean) != channels or len(std) != channels or not all(value > 0 for value in std):
        raise UsageError(
            f"normalize is (mean, std), a number for each of the {channels} channels and std above 0; "
            f"got {mean}, {std}"
        )
    return mean, std


def _moments(train: Part) -> tuple[tuple[float, ...], tuple[float, ...]]:
    channels = train.image_shape[0]
    total, squares = torch.zeros(2, channels, dtype=torch.float64)
    count = 0
    for batch in train.subset(min(_SAMPLE, len(train))).batches(500):
        pixels = batch.images.double()
        total += pixels.sum((0, 2, 3))
        squares += pixels.square().sum((0, 2, 3))
        count += pixels.numel() // channels
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=0)
    std = [math.sqrt(value) if value > 1e-12 else 1.0 for value in variance.tolist()]
    return tuple(mean.tolist()), tuple(std)
