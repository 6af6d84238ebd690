"""What training makes small."""

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """The mean cross-entropy of a batch, in nats, always computed in float32.

    Args:
        logits: (B, classes), any float type.
        targets: (B,) int64 class numbers, or (B, classes) probabilities (after mixup or cutmix).
        label_smoothing: share of each target spread evenly over all classes (Szegedy et al., 2016).
    """
    return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)


def count_correct(logits: Tensor, targets: Tensor) -> Tensor:
    """How many images get their (most probable) target, as a scalar tensor; shapes as in `cross_entropy`."""
    wanted = targets.argmax(1) if targets.is_floating_point() else targets
    return (logits.argmax(1) == wanted).sum()
