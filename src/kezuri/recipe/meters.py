"""What proposals come to by the metrics of a budget: counted, or measured in the runtime."""

from functools import cached_property
from pathlib import Path

from torch import nn

from kezuri.core.measurement import Measurement
from kezuri.recipe.costs import Costs, Proposal
from kezuri.recipe.timing import Timing

NEAR = {"size": 0.002, "latency": 0.03}
"""How far below its ceiling a measured value may stay, as a fraction of it."""
RACE_SECONDS = 3.0


class Meters:
    """Counts and measures the proposals for one model.

    Args:
        costs: of the model.
        timing: of the same; None where neither size nor latency is asked for.
        dense: the meters of the model that a budget's fractions are of; None for this one.
    """

    def __init__(self, costs: Costs, timing: Timing | None, dense: "Meters | None" = None) -> None:
        self.costs, self.timing = costs, timing
        self.dense = self if dense is None else dense
        self._latencies: dict[Path | nn.Module, Measurement] = {}

    def limit(self, metric: str, ceiling: float) -> float:
        """A ceiling in the metric's unit: below 1 it is a fraction of the dense model's value."""
        return ceiling if ceiling >= 1 else ceiling * self.dense.of(metric, {}).value

    def of(self, metric: str, proposal: Proposal) -> Measurement:
        """A proposal's `params`, `macs`, `size` (bytes of its file) or `latency` (ms an example).

        A proposal is timed once; asked for again, its latency is the one that was measured.

        Raises:
            ModelError: it cannot be exported.
            ProofFailed: the cut model does not run.
        """
        if metric in ("params", "macs"):
            count = self.costs.params if metric == "params" else self.costs.macs
            return Measurement(metric, count(proposal), "count")
        ready = self._measured.prepared(proposal)
        if metric == "size":
            return ready.size
        if ready.model not in self._latencies:
            self._latencies[ready.model] = self._latency(ready.model)
        return self._latencies[ready.model]

    def _latency(self, model: Path | nn.Module) -> Measurement:
        """By the ratio to the dense model within a turn, which the machine's moods leave alone."""
        dense, alone = self.dense._whole, self.dense._alone
        if model == dense:
            return alone
        found = self._measured.race({"dense": dense, "cut": model}, seconds=RACE_SECONDS)
        ratio = found.speedups["cut"]
        low, high = (alone.value / (bound or ratio.value) for bound in (ratio.high, ratio.low))
        said = found.latencies["cut"].conditions
        return Measurement("latency", alone.value / ratio.value, "ms", low, high, ratio.samples, said)

    @cached_property
    def _alone(self) -> Measurement:
        """The latency of the model as it is, measured by itself."""
        return self._measured.race({"": self._whole}, seconds=RACE_SECONDS).latencies[""]

    @property
    def _whole(self) -> Path | nn.Module:
        return self._measured.prepared({}).model

    @property
    def _measured(self) -> Timing:
        assert self.timing is not None
        return self.timing
