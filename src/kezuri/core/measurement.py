"""A measured value never travels alone: it carries unit, spread, samples and conditions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """One measured value.

    Attributes:
        metric: what was measured: `accuracy`, `size`, `params`, `macs`, `latency`, …
        value: the value, in `unit`.
        unit: `fraction`, `bytes`, `count`, `ms`, `s`, `%/MB`.
        low, high: the spread: a 95 % interval for accuracy, the 10th and 90th percentile for latency.
        samples: how many observations it rests on (images, timed calls).
        conditions: under what it holds: split, runtime, threads, batch, file format, step, round.
    """

    metric: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    samples: int = 1
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data, one line of `measurements.jsonl`; absent spread is left out."""
        row: dict[str, Any] = {"metric": self.metric, "value": self.value, "unit": self.unit}
        if self.low is not None:
            row["low"] = self.low
        if self.high is not None:
            row["high"] = self.high
        return {**row, "samples": self.samples, "conditions": dict(self.conditions)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Measurement":
        """The inverse of `to_json`."""
        return cls(**row)

    def under(self, **conditions: Any) -> "Measurement":
        """The same measurement with more conditions said."""
        return Measurement(
            self.metric,
            self.value,
            self.unit,
            self.low,
            self.high,
            self.samples,
            {**self.conditions, **conditions},
        )


RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "torch": "PyTorch"}


def runtime_title(name: object) -> str:
    """A runtime's name as people write it; of one that is not known, its registered name."""
    return RUNTIMES.get(str(name), str(name)) if name else "unknown runtime"
