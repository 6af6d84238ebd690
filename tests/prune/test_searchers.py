import sys
from dataclasses import replace
from math import exp, log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kezuri.core.errors import RecipeError, UsageError
from kezuri.prune.granularity import Block, Weight
from kezuri.prune.problem import FewestWeights, Fitness, FixedSparsity
from kezuri.prune.scope import Contest, Global, Isomorphic
from kezuri.prune.searchers.annealing import Annealing
from kezuri.prune.searchers.genetic import Genetic
from kezuri.prune.searchers.magnitude import Magnitude
from kezuri.prune.searchers.random import RandomSearch
from kezuri.prune.searchers.ratios import Ratios
from kezuri.prune.space import Space

HALF = FixedSparsity(0.5)


@pytest.fixture(scope="module")
def space():
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(10, 12, generator=generator) for name in ("one.weight", "two.weight")}
    groups = Weight().groups(weights)
    scores = {group.name: group.pool({group.name: weights[group.name].abs()}) for group in groups}
    return Space(Contest(groups, scores), weights, Global(normalize="none"))


def begun(searcher, space, problem=HALF, *, evaluations=100, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return searcher.begin(space, problem, evaluations=evaluations, generator=generator)


def worst(count):
    return [Fitness(0.0, 1.0, 100, 10)] * count


def of(accuracy, *, images=100, weights=10):
    return Fitness(accuracy, 0.0, images, weights)


def test_magnitude_asks_for_one_mask_once(space):
    search = begun(Magnitude(), space)
    assert torch.equal(search.ask().kept, space.best(0.5)[None])
    search.tell(worst(1))
    assert search.ask().kept.shape == (0, space.units)


def test_random_draws_are_all_judged_on_the_same_images(space):
    search = begun(RandomSearch(batch=30), space)
    counts = []
    while len((asked := search.ask()).kept):
        assert asked.generation == 0
        counts.append(len(asked.kept))
        search.tell(worst(len(asked.kept)))
    assert counts == [30, 30, 30, 10]


def test_random_and_genetic_begin_with_the_same_draws(space):
    random, genetic = (begun(searcher, space).ask().kept for searcher in (RandomSearch(), Genetic()))
    assert torch.equal(random, genetic)
    assert torch.equal(random[0], space.best(0.5))
    assert len({tuple(kept.tolist()) for kept in random}) == 32


def test_the_best_live_on_and_are_asked_again(space):
    search = begun(Genetic(population=10, elites=2), space)
    first = search.ask()
    search.tell([of(number / 10) for number in range(10)])
    second = search.ask()
    assert (first.generation, second.generation) == (0, 1)
    assert torch.equal(second.kept[:2], first.kept[[9, 8]])


def test_what_fell_out_of_the_race_has_no_children(space):
    settings = {"population": 10, "elites": 1, "tournament": 50, "crossover": 0, "mutation": 0}
    search = begun(Genetic(**settings), space)
    first = search.ask().kept
    search.tell([of(0.3), *[of(0.9, images=20)] * 9])
    children = search.ask().kept
    assert torch.equal(children[0], first[0])
    assert ((children[1:] ^ first[0]).sum(1) == 2).all()  # one swap


def test_mutation_in_one_layer_leaves_the_other(space):
    settings = {"population": 10, "tournament": 50, "crossover": 0, "mutated": "one_layer", "mutation": 0.3}
    search = begun(Genetic(**settings), space)
    first = search.ask().kept
    search.tell([of(0.9), *[of(0.1)] * 9])
    changed = (search.ask().kept[2:] ^ first[0]).view(8, 2, 120).any(2)
    assert (changed.sum(1) == 1).all() and changed.any(0).all()


def test_a_free_sparsity_is_bred_too(space):
    problem = FewestWeights(0.5, sparsity=0.3, total=space.units)
    search = begun(Genetic(), space, problem, evaluations=1000)
    while len((asked := search.ask()).kept):
        counts = asked.kept.sum(1).tolist()
        search.tell([of(0.6 if count >= 60 else 0.4, weights=count) for count in counts])
    assert 60 <= counts[0] <= 66


def test_annealing_begins_at_the_best_draw_and_looks_around(space):
    search = begun(Annealing(draws=4, probes=8, moves=(0.1, 0.1)), space)
    draws = search.ask()
    assert torch.equal(draws.kept, begun(RandomSearch(batch=4), space).ask().kept)
    search.tell([of(0.1), of(0.2), of(0.9), of(0.3)])
    probes = search.ask()
    assert ((probes.kept ^ draws.kept[2]).sum(1) == 24).all()  # 12 of 120 go, 12 come
    search.tell([*[of(0.3)] * 7, of(0.95)])
    first = search.ask()
    assert len(first.kept) == 1 and int((first.kept[0] ^ probes.kept[-1]).sum()) == 24
    assert draws.generation == probes.generation == first.generation == 0


def test_annealing_judges_where_it_is_and_was_best_again_on_other_images(space):
    search = begun(Annealing(draws=1, probes=2, period=3, acceptance=(0.99, 0.98)), space)
    start = search.ask().kept[0]
    search.tell([of(0.5)])
    search.tell([of(0.4), of(0.4)])
    for _ in range(3):
        asked = search.ask()
        assert len(asked.kept) == 1 and asked.generation == 0
        here = asked.kept[0]
        search.tell([of(0.499)])
    again = search.ask()
    assert again.generation == 1
    assert torch.equal(again.kept, torch.stack([here, start]))


def test_the_search_goes_on_from_what_is_better_on_other_images(space):
    settings = {"draws": 1, "probes": 2, "period": 1, "acceptance": (0.99, 0.98), "moves": (0.01, 0.01)}
    for fitnesses, winner in (
        ([of(0.9), of(0.4)], 0),
        ([of(0.4), of(0.9)], 1),
        ([of(0.9, images=10), of(0.4)], 1),  # a race dropped it
    ):
        search = begun(Annealing(**settings), space)
        search.tell([of(0.5)])
        search.tell([of(0.4), of(0.4)])
        search.tell([of(0.499)])
        both = search.ask().kept
        search.tell(fitnesses)
        assert int((search.ask().kept[0] ^ both[winner]).sum()) == 2


@pytest.mark.parametrize(("first", "last"), [(0.8, 0.01), (0.3, 0.1)])
def test_worse_moves_are_taken_as_often_as_it_says(space, first, last):
    """Every move is worse by the same: they are taken with the first chance, later with the last."""
    evaluations, taken = 3000, []
    search = begun(
        Annealing(draws=1, acceptance=(first, last), period=10**6, moves=(0.01, 0.01)),
        space,
        evaluations=evaluations,
    )
    search.tell([of(0.5)])
    search.tell([of(0.49)] * 20)
    while len(search.ask().kept):
        before = search._here
        energy = before.energy + 0.01
        search.tell([of(1 - energy)])
        taken.append(search._here is not before)
    early, late = (sum(part) / len(part) for part in (taken[:300], taken[-300:]))
    middle = exp(-((log(first) * log(last)) ** 0.5))
    halfway = sum(taken[1300:1700]) / 400
    assert early == pytest.approx(first, abs=0.08)
    assert late == pytest.approx(last, abs=0.08)
    assert halfway == pytest.approx(middle, abs=0.08)


@settings(deadline=None, max_examples=20)
@given(evaluations=st.integers(5, 60), period=st.integers(1, 10))
def test_annealing_uses_its_budget_and_no_more(space, evaluations, period):
    search = begun(Annealing(draws=2, probes=2, period=period), space, evaluations=evaluations)
    judged = 0
    while len((asked := search.ask()).kept):
        judged += len(asked.kept)
        search.tell(worst(len(asked.kept)))
    assert judged == evaluations


SAMPLERS = {"cmaes": "cmaes", "nsga2": "optuna"}


def shares(space, kept):
    return [float(flags.double().mean()) for flags in space.split(kept).values()]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_ratios_find_what_each_layer_should_keep(space, sampler):
    """The first layer is worth nothing: all the weights should be kept in the second."""
    pytest.importorskip(SAMPLERS[sampler])
    search = begun(Ratios(sampler=sampler), space, evaluations=300)
    first = search.ask().kept[0]
    assert shares(space, first) == pytest.approx(shares(space, space.best(0.5)), abs=0.01)
    while len((asked := search.ask()).kept):
        assert (asked.kept.sum(1) == 120).all()
        search.tell([of(shares(space, kept)[1]) for kept in asked.kept])
        last = asked
    assert max(shares(space, kept)[1] for kept in last.kept) > 0.85
    assert last.generation == 0 if sampler == "nsga2" else last.generation > 10


def test_ratios_keep_the_best_weights_of_each_layer(space):
    pytest.importorskip("cmaes")
    for kept in begun(Ratios(), space).ask().kept:
        for flags, worth in zip(space.split(kept).values(), space.split(space.worth).values(), strict=True):
            assert worth[flags].min() > worth[~flags].max()


def test_nsga2_spreads_over_the_front(space):
    pytest.importorskip("optuna")
    problem = FewestWeights(0.9, sparsity=0.5, total=space.units)
    search = begun(Ratios(sampler="nsga2"), space, problem, evaluations=300)
    while len((asked := search.ask()).kept):
        counts = asked.kept.sum(1).tolist()
        search.tell([of(count / space.units, weights=count) for count in counts])
    assert min(counts) < 60 and max(counts) > 180


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_fell_out_of_the_race_is_no_example_to_ratios(space, sampler):
    pytest.importorskip(SAMPLERS[sampler])
    search = begun(Ratios(sampler=sampler, population=4), space)
    search.tell([of(0.1), of(0.2), of(0.3, images=10), of(0.9, images=10), of(0.1)])
    worth = search.state()["values"].flatten().tolist()
    assert sorted(range(4), key=worth.__getitem__) == [0, 3, 2, 1]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_ratios_name_the_package_they_miss(space, sampler, monkeypatch):
    monkeypatch.setitem(sys.modules, SAMPLERS[sampler], None)
    with pytest.raises(UsageError, match=rf"{SAMPLERS[sampler]}: pip install 'kezuri\[search\]'"):
        begun(Ratios(sampler=sampler), space)


def test_ratios_need_layers_to_divide_among(space):
    pytest.importorskip("cmaes")
    with pytest.raises(RecipeError, match="use the scope 'global' or 'local'"):
        begun(Ratios(), replace(space, scope=Isomorphic()))
    weights = {"one.weight": torch.randn(4, 4)}
    groups = Block().groups(weights)
    alone = Space(Contest(groups, {"one.weight": torch.rand(4)}), weights)
    with pytest.raises(RecipeError, match="there is only one"):
        begun(Ratios(), alone)
    with pytest.raises(RecipeError, match="6 evaluations do not reach beyond a first population of 6"):
        begun(Ratios(), space, evaluations=6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Genetic(population=4, elites=4), "fewer than the population of 4, got 4"),
        (lambda: Genetic(tournament=0), "tournament is at least 1, got 0"),
        (lambda: Genetic(crossover=1.5), "crossover is a fraction from 0 to 1, got 1.5"),
        (lambda: Genetic(exchange="genes"), "exchange is 'units' or 'layers', got 'genes'"),
        (lambda: Genetic(mutated="here"), "mutated is 'everywhere' or 'one_layer', got 'here'"),
        (lambda: Genetic(grow="loss"), "grow is 'worth', 'gradient' or 'none', got 'loss'"),
        (lambda: Genetic(temperatures=()), "temperatures are numbers from 0 to infinity"),
        (lambda: RandomSearch(batch=0), "batch is at least 1, got 0"),
        (lambda: Annealing(acceptance=(0.1, 0.5)), "acceptance falls between 1 and 0, got 0.1 to 0.5"),
        (lambda: Annealing(moves=(0.1, 0.0)), "moves are fractions that shrink, got 0.1 to 0.0"),
        (lambda: Annealing(period=0), "period is at least 1, got 0"),
        (lambda: Annealing(temperatures=(-1,)), "temperatures are numbers from 0 to infinity"),
        (lambda: Annealing(resize=2), "resize is a fraction from 0 to 1, got 2"),
        (lambda: Ratios(sampler="tpe"), "sampler is 'cmaes' or 'nsga2', got 'tpe'"),
        (lambda: Ratios(population=3), "population is at least 4, got 3"),
        (lambda: Ratios(reach=1.0), "reach is more than 1, got 1.0"),
        (lambda: Annealing(mutated="here"), "mutated is 'everywhere' or 'one_layer', got 'here'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, message):
    with pytest.raises(RecipeError, match=message):
        make()


def test_budgets_that_are_too_small_are_refused(space):
    with pytest.raises(RecipeError, match="20 evaluations do not reach beyond a first population of 32"):
        begun(Genetic(), space, evaluations=20)
    with pytest.raises(RecipeError, match="50 evaluations do not reach beyond 30 draws and 20 probes"):
        begun(Annealing(), space, evaluations=50)


def test_only_those_that_grow_by_gradient_ask_for_it():
    assert Genetic(grow="gradient").grows_by_gradient and Annealing(grow="gradient").grows_by_gradient
    assert not any(kind().grows_by_gradient for kind in (Genetic, Annealing, RandomSearch, Magnitude))
