"""Every coupling of a model with what a channel of it costs, as plain data."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from kezuri.artifact.inspection import InspectedCoupling, InspectedLayer, Inspection, State, Touch
from kezuri.core.measurement import runtime_title
from kezuri.core.progress import Progress
from kezuri.measure.channel_cost import ChannelCosts, channel_costs
from kezuri.measure.channel_latency import RACES, ChannelLatencies, ChannelTimer
from kezuri.measure.macs import count_params
from kezuri.model.coupling import couple
from kezuri.model.exporting import SILENT
from kezuri.model.families import Coupling, Couplings, Layer, Member

UNREACHED = "not reached, or its weight is computed"


def inspect_model(
    model: nn.Module,
    image_shape: tuple[int, int, int],
    *,
    name: str = "model",
    protect: Sequence[str] = (),
    timer: ChannelTimer | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Finds every coupling of a model, and what one channel of it costs.

    Args:
        model: left as it is.
        image_shape: (channels, height, width) of the images it takes.
        name: what to call the model.
        protect: names or patterns (`features.*`) of modules whose outputs stay whole.
        timer: also times the channels that may go, in ONNX Runtime; None times nothing.
        progress: hears how the analysis and the timing go.

    Raises:
        ModelError: torch.export cannot follow the model; the line it stopped at is named.
        UsageError: a pattern in `protect` fits no module; near names are listed.
    """
    couplings = couple(
        model, torch.zeros(2, *image_shape), protect=protect, result="auto", progress=progress or SILENT
    )
    costs = channel_costs(model, couplings, image_shape)
    times = ChannelLatencies()
    if timer is not None:
        times = timer.time(model, couplings, image_shape, costs=costs, progress=progress)
    rows = tuple(_coupling(one, couplings, costs, times) for one in couplings)
    read = {touch.layer: 0 for row in rows for touch in row.reads}
    for row in rows:
        for touch in row.reads:
            read[touch.layer] += touch.channels
    return Inspection(
        model=name,
        image_shape=image_shape,
        params=count_params(model),
        macs=costs.total,
        layers=tuple(_layer(model, one, read.get(one.name, 0), costs) for one in couplings.layers),
        couplings=rows,
        latency=times.dense,
        timed="" if timer is None or times.dense is None else _how(timer),
    )


def _how(timer: ChannelTimer) -> str:
    threads = {1: "1 thread", "all": "all threads"}.get(timer.threads, f"{timer.threads} threads")
    return (
        f"{runtime_title(timer.runtime)}, {threads}, one image: the whole model in turns with one "
        "that has lost half the channels of a coupling and of those alike; the time saved, shared by the "
        f"channels removed. Median of {RACES} races and their range"
    )


def _coupling(
    coupling: Coupling, couplings: Couplings, costs: ChannelCosts, times: ChannelLatencies
) -> InspectedCoupling:
    state: State = "blocked" if coupling.reason else "program" if coupling.rewrite else "free"
    known = {layer.name: layer for layer in couplings.layers}
    return InspectedCoupling(
        name=coupling.name,
        width=coupling.width,
        state=state,
        reason=coupling.reason or coupling.rewrite,
        shared=couplings.is_residual(coupling),
        writes=_touches([m for m in coupling.members if m.role == "output"], known),
        reads=_touches([m for m in coupling.members if m.role == "input"], known),
        params=costs.params[coupling.name],
        macs=costs.macs[coupling.name],
        latency=times.channels.get(coupling.name),
        untimed=times.untimed.get(coupling.name),
    )


def _touches(members: Sequence[Member], known: dict[str, Layer]) -> tuple[Touch, ...]:
    found: dict[str, int] = {}
    for member in members:
        layer = known.get(member.layer)
        each = layer.channels if layer is not None and member.role == "output" else 1
        found[member.layer] = found.get(member.layer, 0) + member.positions.size * each
    return tuple(Touch(name, channels) for name, channels in found.items())


def _layer(model: nn.Module, layer: Layer, inputs: int, costs: ChannelCosts) -> InspectedLayer:
    """`inputs`: what couplings say it reads, for a parameter that is no layer's weight."""
    name = layer.parameter or f"{layer.name}.weight"
    owner = model.get_submodule(name.rpartition(".")[0])
    kernel: tuple[int, ...] = ()
    params, groups = costs.numels.get(name, 0), 1
    if isinstance(owner, nn.Linear | _ConvNd):
        params = sum(parameter.numel() for parameter in owner.parameters(recurse=False))
    if isinstance(owner, nn.Linear):
        inputs = owner.in_features
    elif isinstance(owner, _ConvNd):
        inputs, kernel, groups = owner.in_channels, owner.kernel_size, owner.groups
    return InspectedLayer(
        name=layer.name,
        kind=type(owner).__name__,
        kernel=kernel,
        inputs=inputs,
        outputs=layer.width,
        groups=groups,
        params=params,
        macs=costs.weights.get(name, 0),
        reason=None if layer.parameter else UNREACHED,
    )
