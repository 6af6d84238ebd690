"""Which layer gets how many bits and how many zeros, so that the whole keeps a budget and loses least.

The losses of a table add up as if layers did not know of each other, which holds for small losses. Under that
assumption the choice is a multiple-choice knapsack, solved by dynamic programming over buckets of cost, as in
SPDY (Frantar and Alistarh, 2022, section 3), for any of size, MACs and latency.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kezuri.core.errors import GoalUnreachable, UsageError
from kezuri.quantization.sensitivity import Cost, Entry, Metric, Option, SensitivityTable, check_metric

BUCKETS = 10_000
SLACK = 1e-9  # of a partial sum against the budget: only whole sums are compared exactly

Floats = NDArray[np.float64]
Places = NDArray[np.intp]


@dataclass(frozen=True)
class Allocation:
    """One option for each layer.

    Attributes:
        options: by the layer's name, in the table's order.
        loss: the sum of their losses, in nats.
        cost: of the whole model, with what is fixed.
    """

    options: Mapping[str, Option]
    loss: float
    cost: Cost

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        options = {layer: asdict(option) for layer, option in self.options.items()}
        return {"loss": self.loss, **asdict(self.cost), "options": options}


def allocate(table: SensitivityTable, *, metric: Metric, most: float, buckets: int = BUCKETS) -> Allocation:
    """The choice that loses least and costs `most` at most.

    Exact while at most `buckets` partial choices are unbeaten in loss and cost. Of more, each bucket of cost
    keeps its first and its last; the loss is then at most that of the best choice under a budget that is
    lower by `layers / buckets` of its distance to the cheapest choice. The budget itself is never exceeded,
    and a choice is found whenever there is one. The same table gives the same choice.

    Args:
        table: what each option of each layer loses and costs.
        metric: what the budget is on.
        most: the budget for the whole model: bytes, multiply-accumulates for an image, or milliseconds.
        buckets: how finely costs are told apart.

    Raises:
        GoalUnreachable: even the cheapest choice costs more; the message says how much.
        UsageError: the table lacks this cost, or a number makes no sense.
    """
    if math.isnan(most):
        raise UsageError("the budget must be a number, got nan")
    search = _Search(table, metric, buckets)
    if search.cheapest > most:
        raise GoalUnreachable(
            f"no choice of options brings {metric} down to {most:,.6g}: the lowest that this table can reach "
            f"is {search.cheapest:,.6g}"
        )
    costs = search.run(most)
    return search.allocation(int(np.nonzero(costs <= most)[0][-1]))


def front(
    table: SensitivityTable, *, metric: Metric, points: int = 200, buckets: int = BUCKETS
) -> tuple[Allocation, ...]:
    """The choices that no other beats in both loss and cost, the cheapest first.

    Args:
        table, metric, buckets: as in `allocate`.
        points: how many at most; of more, some spread evenly over the cost are given, with both ends.

    Raises:
        UsageError: the table lacks this cost, or a number makes no sense.
    """
    if points < 2:
        raise UsageError(f"a front has 2 points or more, got {points}")
    search = _Search(table, metric, buckets)
    costs = search.run(math.inf)
    kept = np.arange(len(costs)) if len(costs) <= points else _spread(costs, points // 2)
    return tuple(search.allocation(int(place)) for place in kept)


def uniform(table: SensitivityTable) -> tuple[tuple[Option, Allocation], ...]:
    """The choices that treat all layers alike, for each option that all of them have."""
    shared = set.intersection(*({e.option for e in entries} for entries in table.layers.values()))
    found = []
    for option in sorted(shared):
        made = _allocation(table, [table.entry(layer, option) for layer in table.layers])
        if math.isfinite(made.loss):
            found.append((option, made))
    return tuple(found)


def front_to_json(
    table: SensitivityTable, *, metric: Metric, chosen: Allocation | None = None, points: int = 200
) -> dict[str, Any]:
    """The front as plain data that a report draws, with the uniform choices and the chosen one beside it."""
    even = [{"name": str(option), **made.to_json()} for option, made in uniform(table)]
    return {
        "metric": metric,
        "front": [made.to_json() for made in front(table, metric=metric, points=points)],
        "uniform": even,
        "chosen": None if chosen is None else chosen.to_json(),
    }


class _Search:
    """The dynamic programme: after each layer, the partial choices that no other beats.

    Partial choices are kept in order of rising cost and falling loss.
    """

    def __init__(self, table: SensitivityTable, metric: Metric, buckets: int) -> None:
        check_metric(metric)
        if buckets < 1:
            raise UsageError(f"buckets must be 1 or more, got {buckets}")
        self.table = table
        self.buckets = buckets
        self.fixed = _known(table.fixed, metric, "what is fixed")
        self.entries = [_unbeaten(layer, entries, metric) for layer, entries in table.layers.items()]
        self.costs = [
            np.array([_known(entry.cost, metric, "") for entry in entries]) for entries in self.entries
        ]
        self.losses = [np.array([entry.loss for entry in entries]) for entries in self.entries]
        self.cheapest = self.fixed
        for costs in self.costs:
            self.cheapest += float(costs[0])
        self._trail: list[tuple[Places, Places]] = []

    def run(self, most: float) -> Floats:
        """The costs of the whole choices, rising; those that cost more than `most` are left out early."""
        costs, losses = np.array([self.fixed]), np.zeros(1)
        rest = sum(float(own[0]) for own in self.costs)
        room = most + SLACK * abs(most)
        self._trail = []
        for own_costs, own_losses in zip(self.costs, self.losses, strict=True):
            rest -= float(own_costs[0])
            all_costs = (costs[:, None] + own_costs).ravel()
            all_losses = (losses[:, None] + own_losses).ravel()
            places = np.nonzero(all_costs + rest <= room)[0]
            places = places[np.lexsort((all_losses[places], all_costs[places]))]
            lowest = np.minimum.accumulate(all_losses[places])
            places = places[np.concatenate(([True], lowest[1:] < lowest[:-1]))]
            places = places[_spread(all_costs[places], self.buckets)]
            costs, losses = all_costs[places], all_losses[places]
            self._trail.append(np.divmod(places, len(own_costs)))
        return costs

    def allocation(self, place: int) -> Allocation:
        """The whole choice at a place of what `run` returned."""
        chosen: list[Entry] = []
        for entries, (before, option) in zip(reversed(self.entries), reversed(self._trail), strict=True):
            chosen.append(entries[int(option[place])])
            place = int(before[place])
        return _allocation(self.table, chosen[::-1])


def _unbeaten(layer: str, entries: Sequence[Entry], metric: Metric) -> list[Entry]:
    """Entries none of which beats another, by rising cost; the first in the table of equals."""
    ranked = sorted(entries, key=lambda entry: (_known(entry.cost, metric, layer), entry.loss))
    kept: list[Entry] = []
    for entry in ranked:
        if math.isfinite(entry.loss) and (not kept or entry.loss < kept[-1].loss):
            kept.append(entry)
    return kept


def _known(cost: Cost, metric: Metric, what: str) -> float:
    value = cost.of(metric)
    if value is None:
        raise UsageError(f"the table has no {metric} of {what}: measure it, or take another budget")
    return value


def _spread(costs: Floats, buckets: int) -> Places:
    """Which of rising costs are the first or the last of their bucket; all when they are few."""
    if len(costs) <= buckets:
        return np.arange(len(costs))
    share = (costs - costs[0]) / (costs[-1] - costs[0])
    bucket = np.minimum((share * buckets).astype(np.int64), buckets - 1)
    changes = bucket[1:] != bucket[:-1]
    return np.nonzero(np.concatenate(([True], changes)) | np.concatenate((changes, [True])))[0]


def _allocation(table: SensitivityTable, entries: Sequence[Entry]) -> Allocation:
    options = {layer: entry.option for layer, entry in zip(table.layers, entries, strict=True)}
    cost = Cost.total([table.fixed, *(entry.cost for entry in entries)])
    return Allocation(options, math.fsum(entry.loss for entry in entries), cost)
