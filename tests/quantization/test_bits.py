"""The allocation of bits and zeros against trying every choice."""

import itertools
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kezuri.core.errors import GoalUnreachable, UsageError
from kezuri.quantization.bits import allocate, front, front_to_json, uniform
from kezuri.quantization.sensitivity import Cost, Entry, Option, SensitivityTable

OPTIONS = [Option(bits, sparsity) for bits in (32, 8, 4, 2) for sparsity in (0.0, 0.5)]
METRICS = ("size", "macs", "latency")


def table_of(rows, fixed=0.0):
    """A table of (loss, cost) by layer; every metric costs the same."""
    layers = {
        f"layer {number}": tuple(
            Entry(option, loss, Cost(cost, cost, cost))
            for option, (loss, cost) in zip(OPTIONS, row, strict=False)
        )
        for number, row in enumerate(rows)
    }
    return SensitivityTable(layers, fixed=Cost(fixed, fixed, fixed))


numbers = st.one_of(st.integers(0, 12).map(float), st.floats(0, 50, allow_subnormal=False))
losses = st.one_of(numbers, st.floats(-1, 0), st.just(math.inf))
entry = st.tuples(losses, numbers)
usable = st.lists(entry, min_size=1, max_size=5).filter(
    lambda row: any(math.isfinite(loss) for loss, _ in row)
)
tables = st.builds(table_of, st.lists(usable, min_size=1, max_size=5), fixed=numbers)


def every_choice(table):
    """(cost, loss) of each, the cost added up in the order of the layers."""
    found = []
    for entries in itertools.product(*table.layers.values()):
        cost = table.fixed.size
        for one in entries:
            cost += one.cost.size
        found.append((cost, math.fsum(one.loss for one in entries)))
    return found


@settings(max_examples=150, deadline=None)
@given(tables, st.floats(0, 1), st.sampled_from(METRICS))
def test_no_choice_within_the_budget_loses_less(table, share, metric):
    choices = every_choice(table)
    costs = sorted(cost for cost, loss in choices if math.isfinite(loss))
    most = costs[round(share * (len(costs) - 1))]
    made = allocate(table, metric=metric, most=most)
    best = min(loss for cost, loss in choices if cost <= most)
    assert made.cost.of(metric) <= most
    assert made.loss == pytest.approx(best, abs=1e-9)
    entries = [table.entry(layer, option) for layer, option in made.options.items()]
    assert made.loss == pytest.approx(sum(entry.loss for entry in entries), abs=1e-9)
    assert made.cost.size == pytest.approx(table.fixed.size + sum(entry.cost.size for entry in entries))


@settings(max_examples=60, deadline=None)
@given(tables, st.integers(1, 6), st.floats(0, 1))
def test_few_buckets_keep_the_budget_and_the_promised_bound(table, buckets, share):
    choices = every_choice(table)
    costs = sorted(cost for cost, loss in choices if math.isfinite(loss))
    most = costs[round(share * (len(costs) - 1))]
    made = allocate(table, metric="size", most=most, buckets=buckets)
    lower = most - len(table.layers) / buckets * (most - costs[0])
    within = [loss for cost, loss in choices if cost <= lower - 1e-9]
    assert made.cost.size <= most
    assert all(made.loss <= loss + 1e-9 for loss in within)


@settings(max_examples=80, deadline=None)
@given(tables)
def test_the_front_is_what_nothing_beats(table):
    choices = every_choice(table)
    made = front(table, metric="macs", points=10_000)
    assert [p.cost.macs for p in made] == sorted({p.cost.macs for p in made})
    assert all(a.loss > b.loss - 1e-9 for a, b in itertools.pairwise(made))
    for cost, loss in choices:
        assert not math.isfinite(loss) or any(p.cost.macs <= cost and p.loss <= loss + 1e-9 for p in made)


@settings(max_examples=30, deadline=None)
@given(tables)
def test_a_choice_of_the_front_is_what_its_own_cost_buys(table):
    for point in front(table, metric="size", points=50):
        assert allocate(table, metric="size", most=point.cost.size).loss == pytest.approx(
            point.loss, abs=1e-9
        )


def test_a_known_answer():
    rows = [[(0, 100), (1, 60), (5, 20)], [(0, 50), (9, 10)], [(0, 40), (0.5, 20)]]
    made = allocate(table_of(rows, fixed=10), metric="size", most=140)
    assert [*made.options.values()] == [OPTIONS[1], OPTIONS[0], OPTIONS[1]]
    assert (made.loss, made.cost.size) == (1.5, 140)


def test_a_budget_no_choice_keeps_is_refused_with_the_lowest_there_is():
    table = table_of([[(0, 100), (1, 60)], [(0, 50), (math.inf, 1)]], fixed=5)
    with pytest.raises(GoalUnreachable, match=r"brings size down to 114\.9: the lowest .* is 115"):
        allocate(table, metric="size", most=114.9)
    assert allocate(table, metric="size", most=115).cost.size == 115


def test_the_same_table_gives_the_same_choice_among_equals():
    table = table_of([[(1, 5), (1, 5), (1, 5)]] * 4)
    options = {tuple(allocate(table, metric="size", most=20).options.values()) for _ in range(3)}
    assert options == {(OPTIONS[0],) * 4}


def test_hundreds_of_layers_of_many_options_stay_within_the_budget():
    rows = [
        [((7 * layer + 3) % 11 * 0.01 * number**2, 1e6 / (number + 1) + layer % 13) for number in range(8)]
        for layer in range(60)
    ]
    table = table_of(rows)
    made = allocate(table, metric="size", most=2e7, buckets=2000)
    finer = allocate(table, metric="size", most=2e7)
    assert finer.cost.size <= 2e7
    assert finer.loss <= made.loss <= 1.02 * finer.loss


def test_a_long_front_is_thinned_with_both_ends_kept():
    table = table_of([[(2.0**-layer, 0), (0, 1 + 2.0**-layer)] for layer in range(9)])
    whole, few = (front(table, metric="size", points=points) for points in (1000, 12))
    assert len(whole) > 40 and len(few) <= 12
    assert (few[0], few[-1]) == (whole[0], whole[-1])


def test_uniform_choices_are_those_all_layers_can_take():
    table = table_of([[(0, 9), (1, 5), (2, 3)], [(0, 9), (1, 5)], [(0, 9), (math.inf, 5)]])
    assert [(option, made.cost.size) for option, made in uniform(table)] == [(OPTIONS[0], 27)]


def test_a_front_is_plain_data():
    table = table_of([[(0, 9), (1, 5)], [(0, 9), (1.5, 5)]])
    content = front_to_json(table, metric="size", chosen=allocate(table, metric="size", most=14))
    assert json.loads(json.dumps(content)) == content
    assert [(point["size"], point["loss"]) for point in content["front"]] == [(10, 2.5), (14, 1), (18, 0)]
    assert [(point["name"], point["size"]) for point in content["uniform"]] == [
        ("32 bits", 18),
        ("32 bits, 50% sparse", 10),
    ]
    assert content["chosen"]["options"] == {
        "layer 0": {"bits": 32, "sparsity": 0.5},
        "layer 1": {"bits": 32, "sparsity": 0.0},
    }
    assert content["metric"] == "size"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda t: allocate(t, metric="flops", most=1), "one of size, macs, latency; got 'flops'"),
        (lambda t: allocate(t, metric="size", most=math.nan), "budget must be a number"),
        (lambda t: allocate(t, metric="size", most=99, buckets=0), "buckets must be 1 or more, got 0"),
        (lambda t: front(t, metric="size", points=1), "2 points or more, got 1"),
    ],
)
def test_what_makes_no_sense_is_refused(call, said):
    with pytest.raises(UsageError, match=said):
        call(table_of([[(0, 9)]]))


def test_a_cost_nobody_measured_is_refused_with_the_layer():
    table = SensitivityTable({"conv": (Entry(Option(8), 0.1, Cost(10, 10)),)})
    assert allocate(table, metric="size", most=10).cost == Cost(10, 10, None)
    with pytest.raises(UsageError, match="no latency of conv"):
        allocate(table, metric="latency", most=10)
