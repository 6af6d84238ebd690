"""Proof that an exported file answers as the PyTorch model does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kezuri.core.errors import DataError, ParityFailed
from kezuri.core.measurement import Measurement
from kezuri.runtime.runner import Runner, Session
from kezuri.runtime.runners.onnxruntime import OnnxRuntime
from kezuri.train.device import Device
from kezuri.train.lending import lent

if TYPE_CHECKING:
    from kezuri.data import Part

# relative to the largest logit: what float32 sums in another order may differ by, and what an export may
ROUNDING = 1e-5
TOLERANCE = 1e-3
BATCH = 250


@dataclass(frozen=True)
class Parity:
    """How far an exported model agrees with its origin.

    Attributes:
        agreement: fraction of images with the same top class; near ties count as the same.
        max_error: largest absolute difference of two logits.
        samples: images compared.
    """

    agreement: float
    max_error: float
    samples: int

    def measurements(self) -> tuple[Measurement, Measurement]:
        """`parity_agreement` and `parity_error`."""
        return (
            Measurement("parity_agreement", self.agreement, "fraction", samples=self.samples),
            Measurement("parity_error", self.max_error, "absolute", samples=self.samples),
        )


def check_parity(
    model: nn.Module,
    onnx_path: Path,
    part: Part,
    *,
    device: Device = "cpu",
    limit: int | None = None,
    min_agreement: float = 0.999,
    tolerance: float = TOLERANCE,
    runner: Runner | None = None,
) -> Parity:
    """Compares top class and logits of a file and its model, image by image.

    Two rules, both relative to the largest logit that PyTorch answers. No logit may differ by more than
    `tolerance` of it. And the top class must be the same on `min_agreement` of the images, where an image
    with another class counts as the same only if PyTorch's own top two logits are closer than float32
    rounding (1e-5).

    Args:
        model: the origin; mode and device are left as they were.
        onnx_path: the exported file.
        part: the images, in order.
        device: where PyTorch computes; a GPU may round convolutions to TF32, which is coarser than 1e-5.
        limit: compare only the first so many images.
        min_agreement: fraction in [0, 1].
        tolerance: of logits; one in a thousand is what another order of sums and products can do.
        runner: what runs the file, on one thread; ONNX Runtime if none is given.

    Raises:
        ParityFailed: a rule is broken; the message has the numbers and the first image at fault.
        DataError: there are no images, or the file cannot be read.
    """
    session = (runner or OnnxRuntime()).prepare(onnx_path)
    pairs = list(_answers(model, session, part, device=device, limit=limit))
    if not pairs:
        raise DataError("no images to compare the exported model on")
    expected = np.concatenate([pair[0] for pair in pairs])
    found = np.concatenate([pair[1] for pair in pairs])
    return _judge(expected, found, min_agreement, tolerance, session.runtime)


def _answers(
    model: nn.Module, session: Session, part: Part, *, device: Device, limit: int | None
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    left = len(part) if limit is None else limit
    with lent(model, torch.device(device)):
        model.eval()
        for batch in part.batches(BATCH):
            images = batch.images[:left]
            if not len(images):
                return
            left -= len(images)
            with torch.inference_mode():
                expected = model(images.to(device)).double().cpu().numpy()
            yield expected, session.run(images.numpy()).astype(np.float64)


def _judge(
    expected: NDArray[np.float64],
    found: NDArray[np.float64],
    min_agreement: float,
    tolerance: float,
    runtime: str,
) -> Parity:
    if expected.shape != found.shape:
        raise ParityFailed(f"the exported model answers {found.shape}, PyTorch {expected.shape}")
    if not np.isfinite(expected).all():
        raise ParityFailed("the PyTorch model answers with numbers that are not finite")
    errors = np.nan_to_num(np.abs(expected - found), nan=np.inf, posinf=np.inf).max(1)
    scale = max(float(np.abs(expected).max()), float(np.finfo(np.float32).tiny))
    top_two = np.sort(expected, axis=1)[:, -2:]
    is_tie = top_two[:, -1] - top_two[:, 0] <= ROUNDING * scale
    differs = (expected.argmax(1) != found.argmax(1)) & ~is_tie
    parity = Parity(1 - float(differs.mean()), float(errors.max()), len(expected))
    off = errors > tolerance * scale
    if parity.agreement < min_agreement or off.any():
        first = int((differs | off).argmax())
        raise ParityFailed(
            f"the exported model differs from the PyTorch one in {runtime}: "
            f"same top class on {parity.agreement:.2%} of {parity.samples} images "
            f"(needed {min_agreement:.2%}), logits off by up to {parity.max_error:.3g} "
            f"(allowed {tolerance * scale:.3g}); first at image {first}"
        )
    return parity
