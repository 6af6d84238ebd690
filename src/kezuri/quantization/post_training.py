"""Quantization after training: images to calibrate with, and the network with its ranges."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from kezuri.core.errors import DataError, ModelError, UsageError
from kezuri.core.progress import Progress
from kezuri.core.seeds import derive
from kezuri.data import Data
from kezuri.model.exporting import example_batch
from kezuri.model.modes import device_of
from kezuri.quantization.network import Quantizable, check_formats, with_quantizers
from kezuri.quantization.ptq import SILENT, PostTraining, calibrate_
from kezuri.quantization.quantized import Quantized, report_of
from kezuri.quantization.scheme import Replacement, Scheme

UNCLIPPED: Mapping[str, Replacement] = {"relu6": "relu"}
"""What equalization needs (Nagel et al., 2019): channels of different scales have no common ceiling."""


def post_training(
    model: nn.Module,
    batches: Sequence[tuple[Tensor, ...]],
    scheme: Scheme,
    method: PostTraining,
    progress: Progress = SILENT,
    spared: tuple[str, ...] = (),
) -> Quantized:
    """The quantized copy of a model; arguments as in `calibrate_`.

    Args:
        spared: further layers that stay in floats, because accuracy asked for it.
    """
    inputs = example_batch(model, tuple(part[:2] for part in batches[0]))
    scheme = replace(scheme, spared=(*scheme.spared, *spared))
    prepared = with_quantizers(model, inputs, scheme)
    _check_sizes(prepared, batches)
    notes: tuple[str, ...] = ()
    if method.equalize and (clips := prepared.count("relu6")):
        prepared = with_quantizers(model, inputs, replace(scheme, replaced={**scheme.replaced, **UNCLIPPED}))
        notes = (f"{clips} ReLU6 became ReLU, so that channels can be equalized: values above 6 pass",)
    notes += calibrate_(prepared, batches, method, progress)
    images = sum(len(batch[0]) for batch in batches)
    return Quantized(prepared, inputs, report_of(prepared, images, spared, notes))


def _check_sizes(prepared: Quantizable, batches: Sequence[tuple[Tensor, ...]]) -> None:
    """That the network takes batches of these sizes, whatever example it was made with."""
    places = [node.meta.get("val") for node in prepared.network.graph.nodes if node.op == "placeholder"]
    for at, place in enumerate(place for place in places if isinstance(place, Tensor) and place.dim()):
        size = place.shape[0]
        only = size if isinstance(size, int) else size.node.maybe_as_int()
        other = next((len(batch[at]) for batch in batches if len(batch[at]) != only), None)
        if only is not None and other is not None:
            raise ModelError(
                f"torch.export finds that the model takes batches of {only} only, got one of {other}: its "
                "code makes the batch size a plain number (`len(x)`, where `x.shape[0]` follows)"
            )


def calibration_batches(
    model: nn.Module, calibration: object, method: PostTraining, *, seed: int = 0
) -> list[tuple[Tensor, ...]]:
    """The images to calibrate with, on the model's device, in batches of equal make.

    Raises:
        UsageError: there are none, they are nothing of the kind, or they or the model are not float32.
        DataError: a number is not finite.
    """
    check_formats(model)
    device = device_of(model)
    batches: list[tuple[Tensor, ...]] = []
    left = method.images
    for batch in _batches(calibration, method, seed):
        check_formats(model, batch)
        parts = tuple(part[:left].detach().to(device) for part in batch)
        if not len(parts[0]):
            break
        _check(parts, batches)
        left -= len(parts[0])
        batches.append(parts)
        if left <= 0:
            break
    if not batches:
        raise UsageError("there is nothing to calibrate with: give a few images at least")
    return batches


def _check(parts: tuple[Tensor, ...], before: Sequence[tuple[Tensor, ...]]) -> None:
    first = before[0] if before else parts
    if [part.shape[1:] for part in parts] != [part.shape[1:] for part in first]:
        here, there = (" and ".join(str(tuple(part.shape[1:])) for part in one) for one in (parts, first))
        raise UsageError(f"calibration needs examples of one shape, got {there}, then {here}")
    for part in parts:
        if not bool(part.isfinite().all()):
            raise DataError("the calibration data has values that are not finite (nan or inf)")


def _batches(calibration: object, method: PostTraining, seed: int) -> Iterator[tuple[Tensor, ...]]:
    size = method.batch_size
    if isinstance(calibration, Data):
        stream = calibration.train.batches(size, seed=derive(seed, "calibration"))
        yield from ((batch.images,) for batch in islice(stream, -(-method.images // size)))
    elif isinstance(calibration, Tensor | tuple):
        yield from _split(calibration if isinstance(calibration, tuple) else (calibration,), size)
    elif isinstance(calibration, Dataset):
        yield from ((_images_of(item),) for item in _drawn(calibration, method, seed))
    elif isinstance(calibration, Iterable):
        yield from ((_images_of(item),) for item in calibration)
    else:
        raise UsageError(
            "calibration is a batch of images, batches, a loader, a dataset or a Data; got "
            f"{type(calibration).__name__}"
        )


def _split(inputs: tuple[Any, ...], size: int) -> Iterator[tuple[Tensor, ...]]:
    """A batch of each input, in smaller ones."""
    if not all(isinstance(one, Tensor) and one.dim() for one in inputs) or len({len(x) for x in inputs}) > 1:
        given = ", ".join(str(tuple(x.shape)) if isinstance(x, Tensor) else type(x).__name__ for x in inputs)
        raise UsageError(f"a tuple holds a batch of each of the model's inputs, as many of each; got {given}")
    return zip(*(torch.split(one, size) for one in inputs), strict=True)


def _drawn(dataset: Dataset[Any], method: PostTraining, seed: int) -> Iterable[Any]:
    """Items of a dataset as they come, in batches; drawn at random where it can be."""
    if isinstance(dataset, IterableDataset):
        return DataLoader(dataset, batch_size=method.batch_size)
    generator = torch.Generator().manual_seed(derive(seed, "calibration"))
    places = torch.randperm(len(dataset), generator=generator)[: method.images]  # type: ignore[arg-type]
    return DataLoader(Subset(dataset, places.tolist()), batch_size=method.batch_size)


def _images_of(item: object) -> Tensor:
    """The images of a loader's batch, which has labels behind them."""
    first = item[0] if isinstance(item, list | tuple) and item else getattr(item, "images", item)
    if not isinstance(first, Tensor) or not first.dim():
        raise UsageError(f"a loader gives (images, labels) or images; got {type(item).__name__}")
    return first
