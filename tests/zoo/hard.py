"""Hard graphs of our own: every kind of coupling that is known to trip a tool, each small."""

from .graph import Graph
from .graphs import (
    architectures,
    attention,
    convolutions,
    networks,
    oddities,
    outputs,
    parameters,
    recurrent,
    reshaping,
)

hard: dict[str, Graph] = {}
for shelf in (
    architectures.shelf,
    convolutions.shelf,
    reshaping.shelf,
    parameters.shelf,
    attention.shelf,
    recurrent.shelf,
    outputs.shelf,
    networks.shelf,
    oddities.shelf,
):
    if double := hard.keys() & shelf.keys():
        raise ValueError(f"two graphs are named {double}")
    hard |= shelf
