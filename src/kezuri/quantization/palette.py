"""Weights that share a few values: each layer has a palette, each weight the number of a colour in it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kezuri.core.errors import DataError, ShapeError, UsageError
from kezuri.core.registry import unknown
from kezuri.model.sites import prunable_weights
from kezuri.quantization.sharing import Gradient, Share

BITS = range(1, 9)
ZERO = -1
LARGEST_PALETTE = 1 << BITS[-1]
TURNS = 300


@dataclass(frozen=True)
class Palette:
    """One weight tensor of a few values.

    Attributes:
        centroids: (colours,) float32, at most 256, ascending when they come from `palettize`.
        codes: int16, of the weight's shape: which centroid a weight has; −1 for 0, as pruned weights have it.

    Raises:
        ShapeError: a code that no centroid has, or other kinds of numbers.
    """

    centroids: Tensor
    codes: Tensor

    def __post_init__(self) -> None:
        if self.centroids.dtype != torch.float32 or self.centroids.dim() != 1:
            raise ShapeError(f"centroids are a row of float32, got {self.centroids.dtype}")
        if self.codes.dtype != torch.int16 or len(self.centroids) > LARGEST_PALETTE:
            raise ShapeError(
                f"codes are int16, of at most {LARGEST_PALETTE} centroids; got {self.codes.dtype}"
            )
        if self.codes.numel() and not ZERO <= int(self.codes.min()) <= int(self.codes.max()) < len(
            self.centroids
        ):
            raise ShapeError(f"codes go from -1 to {len(self.centroids) - 1}, the last centroid")

    def values(self) -> Tensor:
        """The weight, float32."""
        return torch.cat([self.centroids, torch.zeros(1)])[self.codes.long()]


@dataclass(frozen=True)
class Palettes:
    """A state dict in which some tensors are palettes.

    Attributes:
        palettes: by the names of their tensors.
        plain: the other tensors, as they are.
        same: other names of a tensor that the state holds more than once.
    """

    palettes: Mapping[str, Palette]
    plain: Mapping[str, Tensor]
    same: Mapping[str, str]

    def state(self) -> dict[str, Tensor]:
        """The state dict, for `model.load_state_dict`."""
        found = {**{name: palette.values() for name, palette in self.palettes.items()}, **self.plain}
        return {**found, **{name: found[first] for name, first in self.same.items()}}

    def hook(self, gradient: Gradient = "sum") -> Share:
        """What makes a training move centroids and not single weights; the model has loaded `state()` before.

        Args:
            gradient: of a centroid: the sum of its weights' gradients (Han et al., 2016), which is its true
                gradient and wants a small learning rate (1e-4 or so, with SGD), or their mean, for which a
                finetuning's usual rate does.

        Raises:
            UsageError: there is no such gradient.
        """
        return Share({name: palette.codes for name, palette in self.palettes.items()}, self.state(), gradient)

    def refreshed(self, model: nn.Module) -> "Palettes":
        """The palettes of a model that was trained with `hook()`; codes stay, all else is read from it.

        Raises:
            ShapeError: the model's tensors are others, or weights of one centroid differ.
        """
        state = _state_of(model)
        if state.keys() != self.state().keys():
            raise ShapeError("the model does not have the tensors that the palettes are of")
        palettes = {name: _reread(name, old, state[name]) for name, old in self.palettes.items()}
        return Palettes(palettes, {name: state[name].clone() for name in self.plain}, self.same)


def palettize(model: nn.Module | Mapping[str, Tensor], bits: int | Mapping[str, int] = 5) -> Palettes:
    """Gives each layer a palette of 2^bits values and each weight the nearest of them (Han et al., 2016).

    Palettes come from k-means within the layer, from centroids spread evenly over its range; the same weights
    give the same palettes. Weights that are 0 stay 0 and have no part in it. A layer of no more different
    values than that keeps them exactly. This makes files small (`write_palettes`) and nothing else: no
    runtime computes with palettes.

    Args:
        model: a model, whose linear and convolution weights get palettes, or a state dict, of which every
            float32 tensor of two dimensions or more does. It is left as it is.
        bits: 1 to 8, for all of these, or for each by name; what is not named stays as it is.

    Raises:
        UsageError: bits out of range, or for a name that cannot have a palette.
        DataError: a weight is not finite.
    """
    state = _state_of(model)
    same = _repeated(state)
    wide = {
        name for name, value in state.items() if value.dtype == torch.float32 and value.numel()
    } - same.keys()
    if isinstance(model, nn.Module):
        wide &= prunable_weights(model).keys()
    else:
        wide = {name for name in wide if state[name].dim() > 1}
    asked = dict.fromkeys(sorted(wide), bits) if isinstance(bits, int) else dict(bits)
    for name, number in asked.items():
        if name not in wide:
            raise unknown("weight that can have a palette", name, sorted(wide))
        if number not in BITS:
            raise UsageError(f"bits are from {BITS.start} to {BITS.stop - 1}, got {number} for {name}")
    palettes = {name: _palette(name, state[name], asked[name]) for name in state if name in asked}
    others = state.keys() - palettes.keys() - same.keys()
    plain = {name: value.clone() for name, value in state.items() if name in others}
    return Palettes(palettes, plain, same)


def cluster(values: NDArray[np.float32], colours: int) -> NDArray[np.float32]:
    """k-means on a line: centroids, ascending, none of them without values; at most `colours`.

    Starts from centroids spread evenly over the range, which keeps the rare large values apart (Han et al.,
    2016, section 3.2), and ends when they stop moving, or after 300 turns.
    """
    distinct = np.unique(values)
    if len(distinct) <= colours:
        return distinct
    ordered = np.sort(values).astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centroids = np.linspace(ordered[0], ordered[-1], colours)
    for _ in range(TURNS):
        edges = np.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2)
        edges = np.concatenate([[0], edges, [len(ordered)]])
        sizes = np.diff(edges)
        means = np.diff(sums[edges]) / np.maximum(sizes, 1)
        moved = np.where(sizes > 0, means, centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    rounded = np.unique(centroids.astype(np.float32))
    return rounded[np.unique(nearest(values, rounded))]


def nearest(values: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int64]:
    """The number of the nearest of some ascending centroids; the higher of two that are as near."""
    middles = (centroids[1:].astype(np.float64) + centroids[:-1]) / 2
    return np.searchsorted(middles, values.astype(np.float64), side="right")


def _palette(name: str, weight: Tensor, bits: int) -> Palette:
    values = weight.reshape(-1).numpy()
    if not np.isfinite(values).all():
        raise DataError(f"{name} holds values that are not finite")
    codes = np.full(values.shape, ZERO, dtype=np.int16)
    kept = values != 0
    centroids = np.zeros(0, dtype=np.float32)
    if kept.any():
        centroids = cluster(values[kept], 1 << bits)
        codes[kept] = nearest(values[kept], centroids)
    return Palette(torch.from_numpy(centroids), torch.from_numpy(codes).view(weight.shape))


def _reread(name: str, old: Palette, weight: Tensor) -> Palette:
    if weight.shape != old.codes.shape:
        raise ShapeError(f"{name} is {tuple(weight.shape)}, its palette {tuple(old.codes.shape)}")
    centroids = old.centroids.clone()
    kept = old.codes >= 0
    # whichever weight of a centroid is last: the comparison below shows that they are all the same
    centroids[old.codes[kept].long()] = weight[kept]
    new = Palette(centroids, old.codes)
    if not torch.equal(new.values(), weight):
        raise ShapeError(f"weights of {name} that share a centroid differ: train with the palettes' hook")
    return new


def _state_of(model: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict's tensors, on the CPU; what one tensor was stays one."""
    state = model.state_dict() if isinstance(model, nn.Module) else model
    wrong = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if wrong:
        raise UsageError(
            f"a state dict of tensors is needed; {wrong[0]} is a {type(state[wrong[0]]).__name__}"
        )
    return {name: value.detach().cpu() for name, value in state.items()}


def _repeated(state: Mapping[str, Tensor]) -> dict[str, str]:
    """The names of tensors that have a name already, and that name."""
    first: dict[tuple[object, ...], str] = {}
    same = {}
    for name, value in state.items():
        if value.numel():
            place = (value.data_ptr(), value.shape, value.stride(), value.dtype)
            if first.setdefault(place, name) != name:
                same[name] = first[place]
    return same
