"""How much each channel's feature map says: the evidence of HRank."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from kezuri.calibrate.collector import Gradients, collectors
from kezuri.calibrate.layers import hear_outputs
from kezuri.calibrate.sites import Site
from kezuri.core.errors import TrainingDiverged


class MapRanks:
    """Averages the ranks of the maps that the first images make.

    A layer's map is taken behind its BatchNorm, and negative values count as zero, as behind a ReLU.
    """

    def __init__(self, model: nn.Module, sites: Mapping[str, Site], *, images: int) -> None:
        self._sites = sites
        self._left = images
        self._normed: set[str] = set()
        self._totals: dict[str, Tensor] = {}
        self._seen: dict[str, int] = {}
        self._handles = hear_outputs(model, sites, layer=self._of_layer, norm=self._of_norm)

    def _of_layer(self, name: str, layer: nn.Module, output: Tensor) -> None:
        if name not in self._normed:
            self._add(name, output.movedim(-1, 1) if isinstance(layer, nn.Linear) else output)

    def _of_norm(self, name: str, _norm: nn.Module, output: Tensor) -> None:
        if name not in self._normed:  # so far, the maps before the norm were taken for it
            self._normed.add(name)
            self._totals.pop(name, None)
            self._seen.pop(name, None)
        self._add(name, output)

    @torch.no_grad()
    def _add(self, name: str, maps: Tensor) -> None:
        maps = maps.detach()[: self._left]
        if not len(maps):
            return
        if not bool(maps.isfinite().all()):
            raise TrainingDiverged(f"the feature maps of {name} are not finite, so they have no rank")
        # One image at a time: the decomposition needs several times the memory of the maps.
        total = torch.stack([ranks(each) for each in maps]).sum(0)
        self._totals[name] = self._totals[name] + total if name in self._totals else total
        self._seen[name] = self._seen.get(name, 0) + len(maps)

    def after_batch(self, gradients: Mapping[str, Tensor], images: int) -> None:  # noqa: ARG002 (the role's)
        self._left = max(0, self._left - images)

    def evidence(self) -> dict[str, Tensor]:
        means = {name: total / self._seen[name] for name, total in self._totals.items()}
        return {name: self._sites[name].folded(mean).mean(0) for name, mean in means.items()}

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


def ranks(maps: Tensor) -> Tensor:
    """Rank of each channel's map, (channels, *positions) to (channels,) float64; negative values are zero.

    The last axis makes the columns and all others the rows. With fewer than two axes there is no matrix:
    every position is then a map of its own, of rank 0 or 1, and their mean says how often the channel is on.
    """
    maps = maps.clamp(min=0).to(torch.promote_types(maps.dtype, torch.float32))
    if maps.dim() < 3:
        return (maps > 0).double().view(len(maps), -1).mean(1)
    rank: Tensor = torch.linalg.matrix_rank(maps.flatten(1, -2))
    return rank.double()


@collectors.register("map_rank")
@dataclass(frozen=True)
class MapRank:
    """Mean rank of each output channel's feature map, (outputs,) (Lin et al., 2020).

    Attributes:
        images: how many of the sample are looked at; mean ranks hardly depend on it, and each costs a
            singular value decomposition a channel.
    """

    images: int = 128

    gradients: ClassVar[Gradients] = "none"

    def listen(self, model: nn.Module, sites: Mapping[str, Site]) -> MapRanks:
        return MapRanks(model, sites, images=self.images)
