"""What each layer takes by itself in a runtime, in floats and in integers: the costs of a latency budget.

Layers of the same make share one timing, of a file of the layer alone, less what any call takes. In integers
the conversions at its two ends come off, which its neighbours spare it; in floats they come on top, as its
neighbours are in integers. Two neighbours in floats save those between them, which these costs do not know:
choices are therefore timed as a whole, too (`kezuri.quantization.latency_budget`).
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, fx, nn
from torch.nn import functional as F

from kezuri.artifact.atomic import write_bytes
from kezuri.model.modes import evaluating
from kezuri.quantization.alignment import wide
from kezuri.quantization.network import Quantizable, Site
from kezuri.quantization.ptq import layer_map
from kezuri.quantization.quantize import quantize
from kezuri.quantization.rounding import LayerMap
from kezuri.runtime.export import OPSET, export_onnx, serialized

FEW, MANY = 16, 100_000
"""Numbers in the files that conversions are timed with."""
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Race(Protocol):
    """Times files in a runtime."""

    @property
    def runtime(self) -> str:
        """The name of the runner."""

    def __call__(self, files: Mapping[str, Path], shape: tuple[int, ...]) -> Mapping[str, float]:
        """Milliseconds a call of each file for one batch of this shape, taken in turns."""


class LayerTimes:
    """Times layers when they are asked for, each make once.

    Args:
        prepared: the network they are part of.
        example: an example of each input, of one image.
        race: times files.
        folder: for the files.
    """

    def __init__(self, prepared: Quantizable, example: tuple[Tensor, ...], race: Race, folder: Path) -> None:
        self.prepared, self.race, self.folder = prepared, race, folder
        self.nodes = {node.name: node for node in prepared.network.graph.nodes}
        self.inputs = _Inputs(prepared).seen(example)
        self._known: dict[object, tuple[float, float]] = {}

    def of(self, site: Site) -> tuple[float, float]:
        """Milliseconds for one image in floats and in integers, its conversions counted as said above."""
        x, answers = self.inputs[site.node]
        made = (tuple(self.prepared.weight(site).shape), layer_map(self.nodes[site.node]), tuple(x.shape))
        if made not in self._known:
            self._known[made] = self._timed(site, x, answers)
        return self._known[made]

    def _timed(self, site: Site, x: Tensor, answers: int) -> tuple[float, float]:
        alone, x = self._alone(site, x)
        shape = tuple(x.shape[1:])
        plain, integers = self.folder / "layer.onnx", self.folder / "layer-int8.onnx"
        export_onnx(alone, shape, plain)  # type: ignore[arg-type]
        quantize(alone, x).export(integers)
        found = self.race({"plain": plain, "integers": integers}, tuple(x.shape))
        call, conversion = self.overheads
        ends = conversion * (x.numel() + answers)
        return max(found["plain"] - call, 0.0) + ends, max(found["integers"] - call - ends, 0.0)

    def _alone(self, site: Site, x: Tensor) -> tuple[nn.Module, Tensor]:
        """The layer by itself and its input, with a bias and as many channels as the file gives them."""
        weight = self.prepared.weight(site).detach().cpu()
        settings = layer_map(self.nodes[site.node])
        if settings is not None:
            weight, x, settings = _wide(weight, x, settings)
        layer: nn.Module
        if settings is None:
            layer = nn.Linear(weight.shape[1], weight.shape[0])
        else:
            places = weight.dim() - 2
            layer = CONVOLUTIONS[places](
                weight.shape[1] * settings.groups,
                weight.shape[0],
                tuple(weight.shape[2:]),  # type: ignore[arg-type]
                stride=_each(settings.stride, places),  # type: ignore[arg-type]
                padding=_each(settings.padding, places),  # type: ignore[arg-type]
                dilation=_each(settings.dilation, places),  # type: ignore[arg-type]
                groups=settings.groups,
            )
        with torch.no_grad():
            layer.weight.copy_(weight)
        return nn.Sequential(layer).eval(), x

    @cached_property
    def overheads(self) -> tuple[float, float]:
        """Milliseconds of a call that does next to nothing, and of turning one number into an integer."""
        took = []
        for numbers in (FEW, MANY):
            path = self.folder / f"conversions-{numbers}.onnx"
            write_bytes(path, serialized(_conversions(numbers)))
            took.append(self.race({"": path}, (1, numbers))[""])
        return took[0], max(took[1] - took[0], 0.0) / (2 * (MANY - FEW))


def _wide(weight: Tensor, x: Tensor, layer: LayerMap) -> tuple[Tensor, Tensor, LayerMap]:
    """A layer over images with channels of zeros (`kezuri.quantization.alignment`)."""
    depthwise = layer.groups == x.shape[1] == len(weight)
    if weight.dim() != 4 or (layer.groups > 1 and not depthwise):
        return weight, x, layer
    inputs, outputs = (
        wide(channels, depthwise=depthwise) - channels for channels in (x.shape[1], len(weight))
    )
    weight = F.pad(weight, (0, 0, 0, 0, 0, 0 if depthwise else inputs, 0, outputs))
    x = F.pad(x, (0, 0, 0, 0, 0, inputs))
    return weight, x, replace(layer, groups=x.shape[1]) if depthwise else layer


def _each(numbers: tuple[int, ...], places: int) -> tuple[int, ...]:
    """One number for each spatial dimension."""
    return numbers * places if len(numbers) == 1 else numbers


def _conversions(numbers: int) -> onnx.ModelProto:
    """A file that rounds so many numbers and does nothing else."""
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", numbers])
        for name in ("images", "logits")
    ]
    given = [
        onnx.numpy_helper.from_array(np.array(0.02, np.float32), "scale"),
        onnx.numpy_helper.from_array(np.array(128, np.uint8), "zero_point"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["images", "scale", "zero_point"], ["integers"]),
        helper.make_node("DequantizeLinear", ["integers", "scale", "zero_point"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "conversions", ends[:1], ends[1:], given)
    opset = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10)


class _Inputs(fx.Interpreter):
    """Runs a network and keeps what its layers read, and how many numbers they answer, by node."""

    def __init__(self, prepared: Quantizable) -> None:
        super().__init__(prepared.network)
        self.wanted = {site.node for site in prepared.sites}
        self.found: dict[str, tuple[Tensor, int]] = {}

    @torch.no_grad()
    def seen(self, example: tuple[Tensor, ...]) -> dict[str, tuple[Tensor, int]]:
        with evaluating(self.module):
            self.run(*example)
        return self.found

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self.wanted:
            self.found[n.name] = self.env[n.args[0]].detach().cpu(), result.numel()  # type: ignore[index]
        return result
