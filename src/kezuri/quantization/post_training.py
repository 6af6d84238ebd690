"""One call: a trained model and a few images in, the model in integers out."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from kezuri.core.errors import DataError, GoalUnreachable, ModelError, UsageError
from kezuri.core.progress import Progress
from kezuri.core.seeds import derive
from kezuri.data import Data
from kezuri.model.exporting import example_batch
from kezuri.model.modes import device_of, evaluating
from kezuri.quantization.fake import FakeQuant, quantizers_of
from kezuri.quantization.network import Quantizable, check_formats, with_quantizers
from kezuri.quantization.observer import Observer, observers
from kezuri.quantization.ptq import SILENT, PostTraining, calibrate_
from kezuri.quantization.quantized import Quantized, report_of
from kezuri.quantization.rounding import Rounding, roundings
from kezuri.quantization.scheme import Replacement, Scheme

Accuracy = Callable[[nn.Module], float]


def usual_observer(bits: int) -> str:
    """The name of the observer that suits so many bits.

    With few steps, the values between count for more than the largest; learned steps begin there, too.
    """
    return "min_max" if bits >= 8 else "mse"


def quantize(
    model: nn.Module,
    calibration: Data | Dataset[Any] | Tensor | Iterable[Any],
    bits: int = 8,
    *,
    activation_bits: int = 8,
    layer_bits: Mapping[str, int] | None = None,
    spared: Sequence[str] = (),
    per_channel: bool = True,
    attention: bool = True,
    replaced: Mapping[str, Replacement] | None = None,
    observer: str | Observer | None = None,
    weight_observer: str | Observer | None = None,
    rounding: str | Rounding = "nearest",
    equalize: bool = False,
    correct_bias: bool = False,
    reestimate_norms: bool = False,
    images: int = 256,
    keep: tuple[Accuracy, float] | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Quantized:
    """Turns a trained model into one whose weights and activations are integers, without training it.

    Where integers go is decided in one place (`kezuri.quantization.placement`), so that the file runs in
    integers throughout. What stays in floats is in the report, with the reason. Train the result for
    quantization-aware training: batch normalisation is alive in it, and folded when it is exported.

    Args:
        model: left as it is.
        calibration: a few images such as the model takes, normalised, not augmented: a batch, batches, a
            loader or dataset (labels are dropped), or a `Data`, of which the training part is taken.
        bits: of weights, 2 to 8; the first and the last layer get 8. Files hold 8 in any case, so that less
            shows what would be lost.
        activation_bits: of what flows between layers, likewise.
        layer_bits: of the weights of single layers, by name.
        spared: names of layers that stay in floats.
        per_channel: whether each output of a weight has its own scale.
        attention: whether the products of attention go to integers.
        replaced: activations without an integer kernel to replace, `{"hardswish": "relu"}`; needs training.
        observer, weight_observer: how ranges of activations and of weights are found, by name (`kezuri list`)
            or as a method; "min_max" for 8 bits and "mse" for less, if none is named.
        rounding: "nearest", "gptq", "adaround", or a method.
        equalize: whether to even out the ranges of channels between layers first.
        correct_bias: whether to take the mean error of each output out of its bias.
        reestimate_norms: whether batch normalisation gets its statistics anew.
        images: of the calibration data, at most.
        keep: a function that tells a model's accuracy, and the accuracy to keep: layers are left in floats,
            those that suffer most first, as few as keep it.
        seed: decides which images of a `Data` or dataset are taken.
        progress: hears how it goes.

    Raises:
        UsageError: a value is out of range, there is no image to calibrate with, or images are not float32.
        DataError: the images hold numbers that are not finite.
        ModelError: torch.export cannot follow the model, nothing of it can run in integers, or it has weights
            that are not float32.
        GoalUnreachable: the accuracy is not kept even with all layers in floats but one.
    """
    scheme = Scheme(
        bits=bits,
        activation_bits=activation_bits,
        layer_bits=dict(layer_bits or {}),
        spared=tuple(spared),
        per_channel=per_channel,
        attention=attention,
        replaced=dict(replaced or {}),
    )
    lowest = min([bits, *scheme.layer_bits.values()])
    method = PostTraining(
        observer=_member(observers, observer or usual_observer(activation_bits)),
        weight_observer=_member(observers, weight_observer or usual_observer(lowest)),
        rounding=_member(roundings, rounding),
        equalize=equalize,
        correct_bias=correct_bias,
        reestimate_norms=reestimate_norms,
        images=images,
    )
    batches = calibration_batches(model, calibration, method, seed=seed)
    if keep is None:
        return post_training(model, batches, scheme, method, progress)
    return keeping(model, batches, scheme, method, accuracy=keep[0], floor=keep[1], progress=progress)


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
    prepared = with_quantizers(model, inputs, replace(scheme, spared=(*scheme.spared, *spared)))
    _check_sizes(prepared, batches)
    calibrate_(prepared, batches, method, progress)
    images = sum(len(batch[0]) for batch in batches)
    return Quantized(prepared, inputs, report_of(prepared, images, spared))


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


def keeping(
    model: nn.Module,
    batches: Sequence[tuple[Tensor, ...]],
    scheme: Scheme,
    method: PostTraining,
    *,
    accuracy: Accuracy,
    floor: float,
    progress: Progress = SILENT,
) -> Quantized:
    """The quantized model with as few layers in floats as keep an accuracy; those that suffer most go first.

    Args:
        accuracy: of a model, as a fraction; asked some log₂(layers) times.
        floor: what it must not fall below.

    Raises:
        GoalUnreachable: it does with all layers in floats but one; says how far it came.
    """
    whole = post_training(model, batches, scheme, method, progress)
    best = accuracy(whole.model)
    if best >= floor:
        return whole
    order = [layer for layer, _ in suffering(whole, batches)]
    low, high, found = 0, len(order), None
    while high - low > 1:  # with `low` layers in floats it is not kept
        middle = (low + high) // 2 if found is not None else min(high - 1, max(1, 2 * low))
        tried = post_training(model, batches, scheme, method, progress, tuple(order[:middle]))
        reached = accuracy(tried.model)
        best = max(best, reached)
        if reached >= floor:
            high, found = middle, tried
        else:
            low = middle
    if found is None:
        raise GoalUnreachable(
            f"an accuracy of {floor:.2%} is not kept in integers: {best:.2%} with {len(order) - 1} of "
            f"{len(order)} layers in floats; train the quantized model, or give more bits"
        )
    return found


@torch.no_grad()
def suffering(quantized: Quantized, batches: Sequence[tuple[Tensor, ...]]) -> list[tuple[str, float]]:
    """The layers, and how much each alone moves the model's answers when rounded; the worst first.

    Measured as the mean squared change of the answers, relative to their variance, on the calibration images.
    """
    network = quantized.model
    every = quantizers_of(network)
    owned: dict[str, set[str]] = {}
    for site in quantized.prepared.sites:
        owned.setdefault(site.layer, set()).update((site.quantizer, site.inputs))
    before = {name: one.on for name, one in every.items()}
    with evaluating(network):
        try:
            _switch(every, ())
            plain = [_numbers(network(*batch)) for batch in batches]
            scale = sum(float(answer.var(correction=0)) for answer in plain) or 1.0
            found: dict[str, float] = {}
            for layer, names in owned.items():
                _switch(every, names)
                apart = (_numbers(network(*batch)) - was for batch, was in zip(batches, plain, strict=True))
                found[layer] = sum(float(off.square().mean()) for off in apart) / scale
        finally:
            _switch(every, {name for name, on in before.items() if on})
    return sorted(found.items(), key=lambda item: -item[1])


def _switch(every: Mapping[str, FakeQuant], names: Collection[str]) -> None:
    """Only these round."""
    for name, quantizer in every.items():
        quantizer.on = name in names


def _numbers(answer: object) -> Tensor:
    """All fractions of an answer in a row."""
    leaves = pytree.tree_leaves(answer)
    return torch.cat([x.flatten() for x in leaves if isinstance(x, Tensor) and x.is_floating_point()])


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


def _member(registry: Any, given: Any) -> Any:
    return registry[given]() if isinstance(given, str) else given
