"""Modules that turn a tensor into integers and back, so that a network learns to live with it."""

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from kezuri.core.errors import UsageError
from kezuri.quantization.affine import Grid, fake_quant

if TYPE_CHECKING:
    from kezuri.quantization.observer import Observer, Watcher

Ranges = Literal["fixed", "moving", "learned"]
"""What training does to a range: nothing, follow what passes, or learn it (LSQ)."""

MOMENTUM = 0.99


class FakeQuant(nn.Module):
    """Rounds what passes to a grid; off, it lets everything pass; watching, it also learns the range.

    Args:
        grid: which integers there are.
        channels: of a weight, the length of `axis`; None for one scale.
        axis: the dimension with a scale for each position.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, grid: Grid, channels: int | None = None, axis: int | None = None) -> None:
        super().__init__()
        self.grid, self.axis = grid, axis
        shape = () if channels is None else (channels,)
        self.register_buffer("scale", torch.ones(shape))
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.int32))
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
        scale, zero_point = self.grid.fit(low.float(), high.float())
        self.scale.copy_(scale.view_as(self.scale))
        self.zero_point.copy_(zero_point.view_as(self.zero_point))

    def learn(self) -> None:
        """Makes the scale a parameter, which training changes from here on (Esser et al., 2020)."""
        if self.ranges == "learned":
            return
        scale = self.scale.detach().clone()
        del self.scale
        self.scale = nn.Parameter(scale)
        self.ranges = "learned"

    def forward(self, x: Tensor) -> Tensor:
        """`x` of any shape, rounded or as it came."""
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
        from kezuri.quantization.lsq import lsq

        batched = not isinstance(self, WeightQuant)
        return lsq(x, self.scale, self.zero_point, self.grid, self.axis, batched=batched)

    @torch.no_grad()
    def _move(self, x: Tensor) -> None:
        low, high = torch.aminmax(x.float())
        old_low = -self.scale * self.zero_point
        old_high = old_low + self.scale * self.grid.high
        self.fit(torch.lerp(low, old_low, MOMENTUM), torch.lerp(high, old_high, MOMENTUM))

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

    def __init__(self, layer: str, grid: Grid, channels: int | None, axis: int | None) -> None:
        super().__init__(grid, channels, axis)
        self.layer = layer

    def forward(self, weight: Tensor, gain: Tensor | None = None) -> Tensor:
        """The rounded weight.

        Args:
            weight: in the layer's shape.
            gain: (outputs,) what batch normalisation will multiply each output with; needed only where one
                scale serves all outputs, as scales of their own absorb it.
        """
        if gain is None:
            return self._rounded(weight)
        shaped = outputs_first(gain, weight)
        return divided(self._rounded(weight * shaped), shaped)

    def _rounded(self, weight: Tensor) -> Tensor:
        if self.on and self.ranges == "moving" and self.training:
            self._follow(weight.detach())
        return super().forward(weight)

    @torch.no_grad()
    def _follow(self, weight: Tensor) -> None:
        """The largest magnitude as it is now."""
        size = weight.abs()
        size = size.amax() if self.axis is None else size.movedim(self.axis, 0).flatten(1).amax(1)
        self.fit(-size, size)

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
