"""Which way to judge masks is taken."""

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor, nn

from kezuri.core.errors import ModelError
from kezuri.prune.judging import PlainWay, Sheet, Way, largest_activation
from kezuri.prune.judging_stages import StagedWay
from kezuri.prune.judging_vmap import VmapWay
from kezuri.prune.space import Space

How = Literal["auto", "stages", "vmap", "plain"]


class FastestWay:
    """Whichever of several ways took the least time for the first masks it was asked for.

    Answers are the same but for rounding, so that on a device where this is asked, two runs may differ by it.

    Args:
        ways: by name.
    """

    def __init__(self, ways: Mapping[str, Way]) -> None:
        self._ways = ways
        self.seconds: dict[str, float] = {}

    def tally(self, kept: Tensor, sheet: Sheet) -> Tensor:
        """See `Way.tally`."""
        if not self.seconds:
            for name, way in self._ways.items():
                way.tally(kept, sheet)  # the first time, kernels are chosen and loaded
                began = perf_counter()
                way.tally(kept, sheet)
                self.seconds[name] = perf_counter() - began
        return self._ways[self.name].tally(kept, sheet)

    @property
    def name(self) -> str:
        """The fastest, once it is known."""
        return min(self.seconds, key=self.seconds.__getitem__, default="")


def way_to_judge(
    how: How,
    model: nn.Module,
    space: Space,
    image_shape: tuple[int, int, int],
    device: torch.device,
    *,
    norms: Sheet | None,
) -> Way:
    """The way asked for; for `auto`, stages on a CPU, elsewhere what is fastest, and plain if need be.

    Args:
        norms: the images that batch statistics are re-estimated on for each mask; None to leave them.

    Raises:
        ModelError: the way that is asked for cannot run the model.
        ShapeError: the space is not of this model.
    """
    makers: dict[str, Callable[[], Way]] = {
        "stages": lambda: StagedWay(model, space, image_shape, device, norms=norms),
        "vmap": lambda: VmapWay(
            model, space, image_shape, device, largest=largest_activation(model, image_shape)
        ),
        "plain": lambda: PlainWay(model, space, device, norms=norms),
    }
    if how != "auto":
        return makers[how]()
    names = ["stages"] if device.type == "cpu" or norms is not None else ["stages", "vmap"]
    ways: dict[str, Way] = {}
    for name in names:
        try:
            ways[name] = makers[name]()
        except ModelError:
            continue
    if not ways:
        return makers["plain"]()
    return FastestWay(ways) if len(ways) > 1 else next(iter(ways.values()))
