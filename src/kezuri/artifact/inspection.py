"""What an inspection of a model found: plain data for tables, drawings and files."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from kezuri.core.measurement import Measurement

State = Literal["free", "program", "blocked"]


@dataclass(frozen=True)
class InspectedLayer:
    """A layer, or a parameter of no layer, in the order of execution.

    Attributes:
        kind: `Conv2d`, `Linear`, …; `Parameter` for one of no such layer.
        kernel: the kernel's sizes; empty for a layer without.
        inputs, outputs: channels.
        groups: more than 1 where outputs see only part of the inputs.
        macs: multiply-accumulates for one image.
        reason: why nothing is known about its channels; None where they are known.
    """

    name: str
    kind: str
    kernel: tuple[int, ...]
    inputs: int
    outputs: int
    groups: int
    params: int
    macs: int
    reason: str | None = None


@dataclass(frozen=True)
class Touch:
    """What a coupling has of a layer.

    Attributes:
        channels: of the layer's outputs, if the coupling is what it writes; of its inputs, if what it reads.
    """

    layer: str
    channels: int


@dataclass(frozen=True)
class InspectedCoupling:
    """Channels of several layers that go together.

    Attributes:
        width: how many channels (units) there are.
        state: `free` to go, free only in a rewritten `program`, or `blocked`.
        reason: why it is blocked, or why only a program can lose them; None for a free one.
        shared: several layers write into the same channels, as residual sums and attention heads have it.
        writes, reads: the layers whose outputs, and whose inputs, the channels are.
        params, macs: what one channel costs the whole model; for a blocked coupling, what it costs in the
            layers above.
        latency: measured milliseconds for one channel; None where they were not measured.
        untimed: why they were not.
    """

    name: str
    width: int
    state: State
    reason: str | None
    shared: bool
    writes: tuple[Touch, ...]
    reads: tuple[Touch, ...]
    params: int
    macs: int
    latency: Measurement | None = None
    untimed: str | None = None

    @property
    def channels(self) -> int:
        """Of the first layer that writes them, or else reads them; a multiple of the width."""
        touches = self.writes or self.reads
        return touches[0].channels if touches else self.width


@dataclass(frozen=True)
class Inspection:
    """A model, its layers and its couplings.

    Attributes:
        model: as it was asked for.
        image_shape: (channels, height, width).
        latency: milliseconds for one image; None where nothing was timed.
        timed: how the milliseconds were measured; empty where nothing was.
    """

    model: str
    image_shape: tuple[int, int, int]
    params: int
    macs: int
    layers: tuple[InspectedLayer, ...]
    couplings: tuple[InspectedCoupling, ...]
    latency: Measurement | None = None
    timed: str = ""

    def of(self, state: State) -> tuple[InspectedCoupling, ...]:
        """The couplings of this state, in the order of execution."""
        return tuple(coupling for coupling in self.couplings if coupling.state == state)

    def to_json(self) -> dict[str, Any]:
        """Plain data, every measurement as in `measurements.jsonl`."""
        couplings = [
            {**asdict(one), "latency": None if one.latency is None else one.latency.to_json()}
            for one in self.couplings
        ]
        latency = None if self.latency is None else self.latency.to_json()
        return {"format": 1, **asdict(self), "latency": latency, "couplings": couplings}
