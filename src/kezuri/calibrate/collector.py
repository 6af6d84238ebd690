"""The role of a collector: it listens to a pass over sample data and learns one thing about each weight.

What it learns is called evidence. A collector is a choice without state; `listen` puts a `Listener` on a
model. The pass (`kezuri.calibrate.run`) does the forward and, if any listener asks, the gradients, and calls
every listener after each batch, so one pass serves many. It is registered under the name of its evidence.
"""

from collections.abc import Mapping
from typing import ClassVar, Protocol

from torch import Tensor, nn

from kezuri.core.registry import Registry


class Listener(Protocol):
    """Hears one pass over sample data."""

    def after_batch(self, gradients: Mapping[str, Tensor], images: int) -> None:
        """One batch is done; `gradients` of its mean loss by weight name, empty if nobody asked for them."""
        ...

    def evidence(self) -> dict[str, Tensor]:
        """What was learnt, by weight name; weights it does not apply to are left out."""
        ...

    def close(self) -> None:
        """Takes its hooks off the model."""
        ...


class Collector(Protocol):
    """Learns one thing about each weight from a pass over sample data."""

    gradients: ClassVar[bool]
    """Whether the loss must be differentiated."""

    def listen(self, model: nn.Module) -> Listener:
        """Starts listening to `model`; ends with `Listener.close`."""
        ...


collectors: Registry[type[Collector]] = Registry("collector")
