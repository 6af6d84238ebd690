"""A quantized model: it computes and trains like any, and ships as a file of integers."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kezuri.core.errors import UsageError
from kezuri.model.channels import Choices
from kezuri.model.modes import evaluating
from kezuri.model.portable import save_model
from kezuri.model.program import Program
from kezuri.model.shrink import Structure
from kezuri.quantization.export import export_quantized
from kezuri.quantization.fake import Ranges
from kezuri.quantization.graph import kind
from kezuri.quantization.macs import PRODUCTS
from kezuri.quantization.network import Quantizable
from kezuri.quantization.placement import AS_ASKED
from kezuri.quantization.portable import quantization_of
from kezuri.quantization.scheme import check_ranges

FOR_ACCURACY = "left in floats for the accuracy"
SHOWN = 3  # names of operations of a kind


@dataclass(frozen=True)
class Row:
    """What became of a layer or operation.

    Attributes:
        name: in the model; the operation's in the graph, where it is no layer.
        bits: of its weight, or of what a product of activations reads; None if it stays in floats.
        error_db: how far the rounded weight is from its own, in decibels of signal to noise; None for what
            has no weight, for one that is on its grid already, and for floats.
        share: of the model's multiply-accumulates.
        reason: why it stays in floats.
        kind: the operation, such as "conv2d".
    """

    name: str
    bits: int | None
    error_db: float | None
    share: float
    reason: str | None = None
    kind: str = ""


@dataclass(frozen=True)
class Report:
    """What runs in integers and what does not.

    Attributes:
        rows: the layers in order, products of activations, then what stays in floats.
        activation_bits: of what flows between.
        images: that ranges were found with.
        spared: layers that were left in floats because accuracy asked for it.
        notes: what a repair that was asked for changed besides, or could not reach.
    """

    rows: tuple[Row, ...]
    activation_bits: int
    images: int
    spared: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def integer_share(self) -> float:
        """Of the multiply-accumulates, the fraction in integers."""
        return sum(row.share for row in self.rows if row.bits is not None)

    def __str__(self) -> str:
        layers = [row for row in self.rows if row.bits is not None and row.kind not in PRODUCTS]
        products = sum(row.kind in PRODUCTS for row in self.rows if row.bits is not None)
        each = {row.bits: sum(other.bits == row.bits for other in layers) for row in layers}
        bits = ", ".join(f"{count} of {bits} bits" for bits, count in sorted(each.items(), reverse=True))
        also = f" and {products} products of activations" if products else ""
        lines = [
            f"{len(layers)} layers{also} in integers ({bits}), activations of {self.activation_bits} bits: "
            f"{self.integer_share:.1%} of the multiply-accumulates; ranges from {self.images} images"
        ]
        if self.activation_bits < 8:
            lines.append(
                "activations of fewer than 8 bits are simulated: the file clips and computes in floats"
            )
        return "\n".join([*lines, *self._floats(), *self.notes])

    def _floats(self) -> Iterator[str]:
        """A line for each kind of operation that stays in floats, and reason."""
        groups: dict[tuple[str, str | None], list[Row]] = {}
        for row in self.rows:
            if row.bits is None:
                groups.setdefault((row.kind, row.reason), []).append(row)
        for (operation, reason), rows in groups.items():
            share = sum(row.share for row in rows)
            names = ", ".join(row.name for row in rows[:SHOWN]) + (", …" if len(rows) > SHOWN else "")
            work = f"{share:.1%} of the multiply-accumulates" if share else "no multiply-accumulates"
            yield f"{len(rows)} {operation} in floats ({work}): {reason} ({names})"


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

    def export(self, path: Path | str, *, aligned: bool = True) -> Path:
        """Writes one ONNX file that runs in integers; the model stays as it is.

        Args:
            path: the file to write; whole or absent, also when interrupted.
            aligned: whether channels of zeros are added where they make kernels faster: the answers are the
                same, and a cut network runs up to twice as fast for a few per cent more bytes.

        Raises:
            ModelError: it cannot be exported; the operation at fault is named.
            UsageError: the model takes something else than one batch of images.
            ResourceError: the file cannot be written.
        """
        return export_quantized(self.model, image_shape_of(self.inputs), Path(path), aligned=aligned)

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

        Raises:
            UsageError: there is no such way, or the ranges are learned already.
        """
        check_ranges(ranges)
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
def report_of(
    prepared: Quantizable, images: int, spared: tuple[str, ...] = (), notes: tuple[str, ...] = ()
) -> Report:
    """What is where, with how well each weight fits its grid.

    Args:
        images: that ranges were found with.
        spared: left in floats because accuracy asked for it.
        notes: what `calibrate_` told, and others.
    """
    with evaluating(prepared.network):
        rows = tuple(_rows(prepared, max(prepared.macs, 1), spared))
    return Report(rows, prepared.scheme.activation_bits, images, spared, notes)


def _rows(prepared: Quantizable, total: int, spared: tuple[str, ...]) -> Iterator[Row]:
    kinds = {node.name: kind(node) for node in prepared.network.graph.nodes}
    for site in prepared.sites:
        quantizer = prepared.weight_quantizer(site)
        weight = prepared.weight(site)
        noise = float((quantizer(weight) - weight).square().sum()) if quantizer.axis is not None else 0.0
        signal = float(weight.square().sum())
        error = float(10 * torch.log10(torch.tensor(signal / noise))) if noise > 0 < signal else None
        yield Row(site.layer, quantizer.grid.bits, error, site.macs / total, kind=kinds[site.node])
    for name, macs in prepared.products.items():
        yield Row(name, prepared.scheme.activation_bits, None, macs / total, kind=kinds[name])
    for one in prepared.floats:
        reason = FOR_ACCURACY if one.reason == AS_ASKED and one.name in spared else one.reason
        yield Row(one.name, None, None, one.macs / total, reason, one.kind)
