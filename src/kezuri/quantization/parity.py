"""Proof that a file of integers answers as its network does, or the first layer that does not."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, fx

from kezuri.core.errors import ParityFailed
from kezuri.data import Part
from kezuri.model.modes import device_of
from kezuri.model.program import Program
from kezuri.quantization.folding import shipped
from kezuri.quantization.graph import calls, kind
from kezuri.quantization.operators import is_rounded
from kezuri.runtime.parity import Parity, check_parity
from kezuri.runtime.runner import Runner
from kezuri.train.device import Device

AGREEMENT, TOLERANCE = 0.98, 0.25
"""A number on the border of two steps may go either way, and after many layers a few in a hundred have."""
IMAGES = 32
MOVING = (torch.ops.aten.transpose.int, torch.ops.aten.permute.default)
"""Operations that compute nothing; an exporter joins and renames them."""
STRAY = 0.25
"""The fraction of a layer's numbers that may differ by a step or more."""


def check_quantized_parity(
    network: Program,
    path: Path,
    part: Part,
    *,
    device: Device = "cpu",
    limit: int | None = None,
    runner: Runner | None = None,
) -> Parity:
    """Compares a file with the network it was made of, image by image.

    The top class must be the same on 98 % of the images and no logit differ by more than a quarter of the
    largest: both round to the same steps, but a number on the border of two may go either way.

    Args:
        network: quantized; left as it is.
        path: the exported file.
        part: the images, in order.
        device: where PyTorch computes.
        limit: compare only the first so many images.
        runner: what runs the file; ONNX Runtime if none is given.

    Raises:
        ParityFailed: a rule is broken; names the first layer whose numbers differ in ONNX Runtime.
        DataError: there are no images, or the file cannot be read.
    """
    try:
        return check_parity(
            network,
            path,
            part,
            device=device,
            limit=limit,
            min_agreement=AGREEMENT,
            tolerance=TOLERANCE,
            runner=runner,
        )
    except ParityFailed as error:
        images = next(part.batches(IMAGES)).images
        where = first_difference(network, path, images)
        raise ParityFailed(f"{error}; {where or 'no layer differs by itself in ONNX Runtime'}") from error


@torch.no_grad()
def first_difference(network: Program, path: Path, images: Tensor) -> str | None:
    """The first rounded value that a file computes otherwise, in words; None if there is none.

    Args:
        images: (N, C, H, W).
    """
    expected = _Watching(shipped(network, aligned=False)).values(images.to(device_of(network)).cpu())
    proto = onnx.load(path)
    after = {node.input[0]: node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    rounded = {
        node.input[0]: after[node.output[0]]
        for node in proto.graph.node
        if node.op_type == "QuantizeLinear" and node.output[0] in after
    }
    names = [name for name in expected if name in rounded]
    for name, value in zip(names, _answers(proto, [rounded[name] for name in names], images), strict=True):
        wanted, scale = expected[name]
        if value.ndim == wanted.dim() and value.ndim in (2, 4):
            value = value[:, : wanted.shape[1]]  # behind them there may be channels of zeros
        if wanted.shape != value.shape:
            return f"first at {name}: {list(value.shape)} numbers, {list(wanted.shape)} in PyTorch"
        steps = np.abs(value - wanted.numpy()) / scale
        differing = float((steps > 0.5).mean())
        if not differing < STRAY:
            return (
                f"first at {name}: {differing:.1%} of its numbers are other steps, by up to {steps.max():.0f}"
            )
    return None


def _answers(proto: onnx.ModelProto, names: Sequence[str], images: Tensor) -> list[Any]:
    """What a file computes for some of its values."""
    del proto.graph.output[:]
    proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[Any] = session.run(list(names), {session.get_inputs()[0].name: images.numpy()})
    return found


class _Watching(fx.Interpreter):
    """Runs a shipped network and keeps what is rounded, with the scale, by the name of what came before.

    Names are those that the exporter gives, which numbers operations of a kind as they come.
    """

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__(network)
        self.found: dict[str, tuple[Tensor, float]] = {}
        self.names: dict[fx.Node, str] = {}
        seen: Counter[str] = Counter()
        for node in calls(network.graph):
            name = kind(node)
            self.names[node] = f"{name}_{seen[name]}" if seen[name] else name
            seen[name] += 1

    def values(self, images: Tensor) -> dict[str, tuple[Tensor, float]]:
        self.run(images)
        return self.found

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        source = n.args[0] if n.args else None
        if not is_rounded(n) or not isinstance(source, fx.Node):
            return result
        if source.target not in MOVING:
            name = self.names.get(source, source.name)
            self.found.setdefault(name, (result, float(n.args[1])))  # type: ignore[arg-type]
        return result
