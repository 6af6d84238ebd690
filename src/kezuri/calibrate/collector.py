"""The role of a collector: it listens to a pass over sample data and learns one thing about each weight.

What it learns is called evidence. A collector is a choice without state; `listen` puts a `Listener` on a
model. The pass (`kezuri.calibrate.run`) does the forward and, if any listener asks, the gradients, and calls
every listener after each batch, so one pass serves many. It is registered under the name of its evidence.
A listener keeps sums, never the activations of a batch that is done.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal, Protocol

from torch import Tensor, nn

from kezuri.calibrate.sites import Site
from kezuri.core.registry import Registry

Gradients = Literal["none", "batch", "image"]
"""What the loss is differentiated for: nothing, every batch, or every image by itself."""


class Listener(Protocol):
    """Hears one pass over sample data."""

    def after_batch(self, gradients: Mapping[str, Tensor], images: int) -> None:
        """One batch is done.

        Args:
            gradients: of the batch's mean loss, by parameter name (all names of a shared one); empty if
                nobody asked for them.
            images: how many images the batch had; 1 for collectors that want every image's own gradient.
        """
        ...

    def evidence(self) -> dict[str, Tensor]:
        """What was learnt, outputs first, by weight name; weights it does not apply to are left out."""
        ...

    def close(self) -> None:
        """Takes its hooks off the model."""
        ...


class Collector(Protocol):
    """Learns one thing about each weight from a pass over sample data."""

    gradients: ClassVar[Gradients]
    """What the loss must be differentiated for."""

    def listen(self, model: nn.Module, sites: Mapping[str, Site]) -> Listener:
        """Starts listening to `model`, to learn about `sites`; ends with `Listener.close`."""
        ...


collectors: Registry[type[Collector]] = Registry("collector")
