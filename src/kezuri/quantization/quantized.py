"""A quantized model: it computes and trains like any, and ships as a file of integers."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kezuri.core.errors import UsageError
from kezuri.model.channels import Choices
from kezuri.model.portable import save_model
from kezuri.model.program import Program
from kezuri.model.shrink import Structure
from kezuri.quantization.export import export_quantized
from kezuri.quantization.fake import Ranges
from kezuri.quantization.network import Quantizable
from kezuri.quantization.portable import quantization_of


@dataclass(frozen=True)
class Row:
    """What became of a layer or operation.

    Attributes:
        name: in the model; the operation's in the graph, where it is no layer.
        bits: of its weight; None if it stays in floats.
        error_db: how far the rounded weight is from its own, in decibels of signal to noise; None for floats.
        share: of the model's multiply-accumulates.
        reason: why it stays in floats.
    """

    name: str
    bits: int | None
    error_db: float | None
    share: float
    reason: str | None = None


@dataclass(frozen=True)
class Report:
    """What runs in integers and what does not.

    Attributes:
        rows: the layers in order, then what stays in floats.
        activation_bits: of what flows between.
        images: that ranges were found with.
        spared: layers that were left in floats because accuracy asked for it.
    """

    rows: tuple[Row, ...]
    activation_bits: int
    images: int
    spared: tuple[str, ...] = ()

    @property
    def integer_share(self) -> float:
        """Of the multiply-accumulates, the fraction in integers."""
        return sum(row.share for row in self.rows if row.bits is not None)

    def __str__(self) -> str:
        integer = [row for row in self.rows if row.bits is not None]
        each = {row.bits: sum(other.bits == row.bits for other in integer) for row in integer}
        bits = ", ".join(f"{count} of {bits} bits" for bits, count in sorted(each.items(), reverse=True))
        lines = [
            f"{len(integer)} layers in integers ({bits}), activations of {self.activation_bits} bits: "
            f"{self.integer_share:.1%} of the multiply-accumulates; ranges from {self.images} images"
        ]
        lines += [
            f"{row.name} in floats ({row.share:.1%} of the multiply-accumulates): {row.reason}"
            for row in self.rows
            if row.bits is None
        ]
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class Quantized:
    """A model with quantizers.

    Attributes:
        prepared: the network, and what is where in it.
        inputs: an example of each input.
        report: what runs in integers.
    """

    prepared: Quantizable
    inputs: tuple[Tensor, ...]
    report: Report

    @property
    def model(self) -> Program:
        """The network: it computes what the integers will, and trains (quantization-aware training)."""
        return self.prepared.network

    def export(self, path: Path | str) -> Path:
        """Writes one ONNX file that runs in integers; the model stays as it is.

        Raises:
            ModelError: it cannot be exported; the operation at fault is named.
            UsageError: the model takes something else than one batch of images.
            ResourceError: the file cannot be written.
        """
        return export_quantized(self.model, image_shape_of(self.inputs), Path(path))

    def save(
        self,
        folder: Path | str,
        *,
        structure: Structure | None = None,
        choices: Choices | None = None,
        **about: Any,
    ) -> None:
        """Writes the model to go on with; `kezuri.read_model` reads it, given what builds the dense one.

        Args:
            structure: what was cut before it was quantized.
            choices: `Couplings.choices` of a model that was a rewritten program before.
            about: `spec`, `classes`, `image_shape` and what else `kezuri.save_model` takes.
        """
        save_model(
            Path(folder),
            self.model,
            structure=structure or Structure(),
            inputs=self.inputs,
            choices=choices,
            quantization=quantization_of(self.prepared),
            **about,
        )

    def train_ranges(self, ranges: Ranges) -> None:
        """What training does from now on to the ranges of activations: "fixed", "moving" or "learned".

        "learned" has the scales of weights learn too. There is no way back from it.
        """
        for quantizer in self.prepared.activation_quantizers:
            _set(quantizer, ranges)
        for site in self.prepared.sites if ranges == "learned" else ():
            self.prepared.weight_quantizer(site).learn()


def _set(quantizer: Any, ranges: Ranges) -> None:
    if ranges == "learned":
        quantizer.learn()
    elif quantizer.ranges == "learned":
        raise UsageError(f"the ranges are learned already, they cannot be {ranges!r} again")
    else:
        quantizer.ranges = ranges


def image_shape_of(inputs: tuple[Tensor, ...]) -> tuple[int, int, int]:
    """The shape of one image, where the model takes a batch of images and nothing else.

    Raises:
        UsageError: it takes something else.
    """
    if len(inputs) != 1 or inputs[0].dim() < 2 or not inputs[0].is_floating_point():
        shapes = ", ".join(str(tuple(one.shape)) for one in inputs)
        raise UsageError(f"a quantized file takes one batch of floating point numbers, this model {shapes}")
    shape: tuple[int, int, int] = tuple(inputs[0].shape[1:])  # type: ignore[assignment]
    return shape


@torch.no_grad()
def report_of(prepared: Quantizable, images: int, spared: tuple[str, ...] = ()) -> Report:
    """What is where, with how well each weight fits its grid.

    Args:
        images: that ranges were found with.
        spared: left in floats because accuracy asked for it.
    """
    total = sum(site.macs for site in prepared.sites) + sum(one.macs for one in prepared.floats)
    rows = tuple(_rows(prepared, max(total, 1)))
    return Report(rows, prepared.scheme.activation_bits, images, spared)


def _rows(prepared: Quantizable, total: int) -> Iterator[Row]:
    for site in prepared.sites:
        quantizer = prepared.weight_quantizer(site)
        weight = prepared.weight(site)
        noise = float((quantizer(weight) - weight).square().sum()) if quantizer.axis is not None else 0.0
        signal = float(weight.square().sum())
        error = 10 * torch.log10(torch.tensor(signal / noise)) if noise > 0 < signal else None
        yield Row(site.layer, quantizer.grid.bits, None if error is None else float(error), site.macs / total)
    for one in prepared.floats:
        yield Row(one.name, None, None, one.macs / total, one.reason)
