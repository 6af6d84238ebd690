"""Which kernels ONNX Runtime runs a file with, and what share of the time each takes."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import onnxruntime as ort

from kezuri.core.errors import DataError, UsageError

Group = Literal["integers", "conversions", "floats"]

CONVERSIONS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast")
INTEGERS = ("QLinear", "QGemm", "Integer", "MatMulNBits")
WARM_UP = 3
SHOWN = 4


@dataclass(frozen=True)
class Kernel:
    """One kind of kernel in a file.

    Attributes:
        name: as ONNX Runtime names it, such as "QLinearConv".
        count: how many of them there are.
        share: of the time in all kernels, [0, 1].
    """

    name: str
    count: int
    share: float

    @property
    def group(self) -> Group:
        """Whether it computes in integers, converts, or computes in floats; what moves counts by its type."""
        if self.name in CONVERSIONS:
            return "conversions"
        return "integers" if any(word in self.name for word in (*INTEGERS, " int8")) else "floats"

    def __str__(self) -> str:
        return f"{self.count} {self.name} {self.share:.1%}"


def kernels(path: Path | str, image_shape: tuple[int, ...], *, calls: int = 20) -> tuple[Kernel, ...]:
    """Runs a file on one thread, an image a call, with ONNX Runtime's profile; what takes most comes first.

    Args:
        path: an ONNX file that takes one batch of floats.
        image_shape: of one image, (channels, height, width) for most.
        calls: that are timed, after a few that are not.

    Raises:
        UsageError: no call was asked for.
        DataError: the file cannot be run on such images.
    """
    if calls < 1:
        raise UsageError(f"a profile takes a call at least, got {calls}")
    images = np.random.default_rng(0).standard_normal((1, *image_shape), dtype=np.float32)
    with TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            name = session.get_inputs()[0].name
            for _ in range(WARM_UP + calls):
                session.run(None, {name: images})
        except Exception as error:  # the runtime's errors share no base
            raise DataError(f"ONNX Runtime cannot run {path}: {str(error).splitlines()[0]}") from error
        events = json.loads(Path(session.end_profiling()).read_text())
    return _summed(events)


def _summed(events: list[dict[str, object]]) -> tuple[Kernel, ...]:
    seconds: Counter[str] = Counter()
    nodes: dict[str, set[str]] = {}
    seen: Counter[str] = Counter()
    for event in events:
        node, about = str(event.get("name", "")), event.get("args")
        if not node.endswith("_kernel_time") or not isinstance(about, dict):
            continue
        seen[node] += 1
        kind = _kind(about)
        nodes.setdefault(kind, set()).add(f"{node} {about.get('node_index')}")
        if seen[node] > WARM_UP:
            seconds[kind] += int(str(event.get("dur", 0)))
    total = max(sum(seconds.values()), 1)
    found = [Kernel(kind, len(names), seconds[kind] / total) for kind, names in nodes.items()]
    return tuple(sorted(found, key=lambda one: (-one.share, one.name)))


def _kind(about: dict[str, object]) -> str:
    """The operation; of those that compute on any type, with "int8" where they do on bytes."""
    name = str(about.get("op_name"))
    if name in CONVERSIONS or any(word in name for word in INTEGERS):
        return name
    outputs = json.dumps(about.get("output_type_shape"))
    return f"{name} int8" if '"uint8"' in outputs or '"int8"' in outputs else name


def shares(found: tuple[Kernel, ...]) -> dict[Group, float]:
    """The share of the time in integers, conversions and floats."""
    groups: dict[Group, float] = {"integers": 0.0, "conversions": 0.0, "floats": 0.0}
    for one in found:
        groups[one.group] += one.share
    return groups


def told(found: tuple[Kernel, ...]) -> str:
    """In one line: each share of the time, with the kernels that take most of it."""
    words = []
    for group, share in shares(found).items():
        most = [str(one) for one in found if one.group == group]
        if most:
            listed = ", ".join(most[:SHOWN]) + (", …" if len(most) > SHOWN else "")
            words.append(f"{group} {share:.1%} ({listed})")
    return "; ".join(words)
