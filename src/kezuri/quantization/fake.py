"""Modules that turn a tensor into integers and back, so that a network learns to live with it."""

import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from kezuri.core.errors import UsageError
from kezuri.quantization.affine import Grid, fake_quant
from kezuri.quantization.lsq import lsq, positive

if TYPE_CHECKING:
    from kezuri.quantization.observer import Observer, Watcher

Ranges = Literal["fixed", "moving", "learned"]
"""What training does to a range: nothing, follow what passes, or learn it (LSQ)."""

MOMENTUM = 0.99
DROPPED = "dropped"


class FakeQuant(nn.Module):
    """Rounds what passes to a grid; off, it lets everything pass; watching, it also learns the range.

    Args:
        grid: which integers there are.
        channels: of a weight, the length of `axis`; None for one scale.
        axis: the dimension with a scale for each position.
        ceiling: what no value that passes exceeds; no range grows beyond it.
    """

    scale: Tensor
    zero_point: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self, grid: Grid, channels: int | None = None, axis: int | None = None, *, ceiling: float = math.inf
    ) -> None:
        super().__init__()
        self.grid, self.axis, self.ceiling = grid, axis, ceiling
        shape = () if channels is None else (channels,)
        self.register_buffer("scale", torch.ones(shape))
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.int32))
        self.register_buffer("low", torch.zeros(shape))  # as fitted; the grid's own ends are rounded
        self.register_buffer("high", torch.zeros(shape))
        self.on = False
        self.ranges: Ranges = "fixed"
        self._watcher: Watcher | None = None

    def watch(self, observer: "Observer") -> None:
        """From now on learns the range of what passes, and lets it pass as it is."""
        self._watcher = observer.watch(self.grid, self.axis)
        self.on = False

    @property
    def watches(self) -> bool:
        return self._watcher is not None

    def settle(self) -> None:
        """Takes the range that was watched, and rounds from now on.

        Raises:
            MissingEvidence: nothing was seen.
        """
        if self._watcher is None:
            raise UsageError("nothing was watched: call watch first, and let data pass")
        self.fit(*self._watcher.range())
        self._watcher = None
        self.on = True

    @torch.no_grad()
    def fit(self, low: Tensor, high: Tensor) -> None:
        """Takes a range: one number each, or one a channel."""
        low, high = low.float().view_as(self.low), high.float().view_as(self.high).clamp(max=self.ceiling)
        scale, zero_point = self.grid.fit(low, high)
        for mine, found in zip(
            (self.low, self.high, self.scale, self.zero_point), (low, high, scale, zero_point), strict=True
        ):
            mine.copy_(found)

    @property
    def step(self) -> Tensor:
        """The distance of two neighbours on the grid; above 0 whatever a learned scale is."""
        return positive(self.scale.detach()).clamp(max=self._most)

    @property
    def _most(self) -> float:
        """A learned scale that reaches up to the ceiling; no other would keep kernels from clipping there."""
        if math.isinf(self.ceiling):
            return math.inf
        return self.ceiling / max(self.grid.high - int(self.zero_point), 1)

    def learn(self) -> None:
        """Makes the scale a parameter, which training changes from here on (Esser et al., 2020)."""
        if self.ranges == "learned":
            return
        scale = self.scale.detach().clone()
        del self.scale
        self.scale = nn.Parameter(scale)
        self.ranges = "learned"

    def forward(self, x: Tensor, about: Any = None) -> Tensor:
        """`x` of any shape, rounded or as it came.

        Args:
            x: what passes.
            about: `DROPPED` for what was rounded before a dropout, which scales it off the grid in training:
                then it passes.
        """
        if about == DROPPED and self.training:
            return x
        if self._watcher is not None:
            self._watcher.see(x.detach().float())
        if not self.on:
            return x
        if self.ranges == "learned":
            return self._learned(x)
        if self.ranges == "moving" and self.training:
            self._move(x.detach())
        return fake_quant(x, self.scale, self.zero_point, self.grid, self.axis)

    def _learned(self, x: Tensor) -> Tensor:
        scale, most = self.scale, self._most
        if not math.isinf(most):
            if self.training:  # held there, so that it may come back down
                self.scale.data.clamp_(-most, most)
            scale = scale.clamp(-most, most)
        batched = not isinstance(self, WeightQuant)
        return lsq(x, scale, self.zero_point, self.grid, self.axis, batched=batched)

    @torch.no_grad()
    def _move(self, x: Tensor) -> None:
        low, high = torch.aminmax(x.float())
        if bool(low.isfinite() & high.isfinite()):
            self.fit(torch.lerp(low, self.low, MOMENTUM), torch.lerp(high, self.high, MOMENTUM))

    def extra_repr(self) -> str:
        where = "" if self.axis is None else f", axis={self.axis}"
        return f"bits={self.grid.bits}, symmetric={self.grid.symmetric}{where}, on={self.on}"


class WeightQuant(FakeQuant):
    """Rounds the weight of a layer, on the grid that it has once batch normalisation is folded into it.

    Args:
        layer: the layer's name in the model.
        grid: which integers there are.
        channels, axis: as for `FakeQuant`.
    """

    share: Tensor

    def __init__(self, layer: str, grid: Grid, channels: int | None, axis: int | None) -> None:
        super().__init__(grid, channels, axis)
        self.layer = layer
        self.register_buffer("share", torch.ones_like(self.scale))

    @torch.no_grad()
    def fit_weight(self, low: Tensor, high: Tensor, weight: Tensor) -> None:
        """Takes the range that an observer found for a weight, and remembers which share of it that was."""
        self.fit(low, high)
        largest = self._largest(weight)
        found = torch.where(largest > 0, torch.maximum(-self.low, self.high) / largest, 1.0)
        self.share.copy_(found)

    def forward(self, x: Tensor, about: Any = None) -> Tensor:
        """The rounded weight.

        Args:
            x: in the layer's shape.
            about: (outputs,) what batch normalisation will multiply each output with; needed only where one
                scale serves all outputs, as scales of their own absorb it.
        """
        if about is None:
            return self._rounded(x)
        gain = outputs_first(about, x)
        return divided(self._rounded(x * gain), gain)

    def _rounded(self, weight: Tensor) -> Tensor:
        if self.on and self.ranges == "moving" and self.training:
            self._follow(weight.detach())
        return super().forward(weight)

    @torch.no_grad()
    def _follow(self, weight: Tensor) -> None:
        """The same share of the largest magnitude as it is now."""
        size = self._largest(weight) * self.share
        self.fit(-size, size)

    def _largest(self, weight: Tensor) -> Tensor:
        size = weight.detach().abs()
        return size.amax() if self.axis is None else size.movedim(self.axis, 0).flatten(1).amax(1)

    def _move(self, x: Tensor) -> None:
        pass  # it follows the weight exactly


def outputs_first(values: Tensor, weight: Tensor) -> Tensor:
    """One value for each output of a layer, (outputs,), shaped to be broadcast over its weight."""
    return values.view(-1, *[1] * (weight.dim() - 1))


def divided(x: Tensor, gain: Tensor) -> Tensor:
    """What was multiplied with a gain as it was before; zero where the gain is zero."""
    return x / torch.where(gain == 0, 1, gain)


def quantizers_of(network: nn.Module) -> dict[str, FakeQuant]:
    """Every place where a network's tensors are rounded, by module name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, FakeQuant)}
