"""What every mask searcher must do: keep the space's word, end in time, go on exactly after a stop, and find."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn

from kezuri.calibrate.sites import scored_weights
from kezuri.core.errors import RecipeError
from kezuri.model.coupling import couple
from kezuri.prune.criteria.norm import L1
from kezuri.prune.granularity import Channel, Weight
from kezuri.prune.problem import FewestWeights, Fitness, FixedSparsity
from kezuri.prune.scope import Global, Local
from kezuri.prune.searcher import mask_searchers
from kezuri.prune.searchers.random import RandomSearch
from kezuri.prune.select import contest
from kezuri.prune.space import Space

pytest.importorskip("cmaes")  # for the searcher 'ratios'

SPARSITY = 0.7
BASELINES = ("magnitude", "random")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 4, 6)
    ).eval()


@pytest.fixture(scope="module")
def spaces(model):
    def space(granularity, scope, couplings=None):
        field = contest(model, criterion=L1(), granularity=granularity, couplings=couplings)
        return Space.of(field, scored_weights(model), scope=scope)

    channels = Channel(floor=2, floor_fraction=0, round_to=2)
    weights = space(Weight(), Global(normalize="none"))
    alive = torch.ones(weights.units, dtype=torch.bool)
    alive[::4] = False
    return {
        "weights": weights,
        "weights, each layer": space(Weight(), Local()),
        "weights, some gone": replace(weights, alive=alive),
        "channels": space(channels, Global(), couple(model, torch.zeros(1, 2, 6, 6))),
    }


KINDS = ("weights", "weights, each layer", "weights, some gone", "channels")


@pytest.fixture(params=sorted(mask_searchers))
def searcher(request):
    return mask_searchers[request.param]()


class Planted:
    """Units have a hidden value, near their worth but not the same; accuracy is how much of the best is kept."""

    def __init__(self, space, seed=0):
        generator = torch.Generator().manual_seed(seed)
        noise = [
            (torch.randn((), generator=generator) + 0.7 * torch.randn(length, generator=generator)).exp()
            for length in space.lengths
        ]
        self.space, self.values = space, space.odds * torch.cat(noise)
        best = space.project(self.values, SPARSITY)
        self.most = float(self.values[best].sum())
        self.weights = sum(weight.numel() for weight in space.weights.values())

    def __call__(self, kept, generation):
        share = float(self.values[kept].sum()) / self.most
        noise = torch.rand((), generator=torch.Generator().manual_seed(generation))
        weights = round((1 - self.space.sparsity(kept)) * self.weights)
        return Fitness(min(1.0, share * (0.98 + 0.02 * float(noise))), 1 - share, 100, weights)


def begin(searcher, space, problem, *, evaluations=120, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return searcher.begin(space, problem, evaluations=evaluations, generator=generator)


def fixed(planted):
    return FixedSparsity(SPARSITY)


def free(planted):
    return FewestWeights(0.8, sparsity=0.5, total=planted.weights)


def turns(search, planted, stop=None):
    """What a search asks, until it ends or for so many turns."""
    asked = []
    while stop is None or len(asked) < stop:
        turn = search.ask()
        if not len(turn.kept):
            break
        asked.append(turn)
        search.tell([planted(kept, turn.generation) for kept in turn.kept])
    return asked


def same(ones, others):
    return len(ones) == len(others) and all(
        one.generation == other.generation and torch.equal(one.kept, other.kept)
        for one, other in zip(ones, others, strict=True)
    )


@pytest.mark.parametrize("problem", [fixed, free])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_asked_is_in_the_space_and_ends_in_time(spaces, searcher, kind, problem):
    planted = Planted(spaces[kind])
    space, asks = spaces[kind], problem(planted)
    asked = turns(begin(searcher, space, asks), planted)
    masks = torch.cat([turn.kept for turn in asked])
    assert masks.shape[1] == space.units and masks.dtype == torch.bool
    assert len(masks) == 1 if mask_searchers.name_of(searcher) == "magnitude" else 100 <= len(masks) <= 120
    assert [turn.generation for turn in asked] == sorted(turn.generation for turn in asked)
    best = space.split(space.best(asks.sparsity))
    for kept in masks:
        parts = space.split(kept)
        if space.alive is not None:
            assert not (kept & ~space.alive).any()
        if kind == "channels":
            for group in space.groups:
                assert int(parts[group.name].sum()) >= 2 and int(parts[group.name].sum()) % 2 == 0
            assert asks.is_free or space.sparsity(kept) >= SPARSITY
        elif not asks.is_free:
            assert sum(int(flags.sum()) for flags in parts.values()) == sum(
                int(flags.sum()) for flags in best.values()
            )
    if asks.is_free and len(masks) > 1:
        assert len({int(kept.sum()) for kept in masks}) > (1 if kind == "channels" else 3)


def test_a_layer_of_its_own_keeps_its_share(spaces, searcher):
    space = spaces["weights, each layer"]
    planted = Planted(space)
    wanted = {name: int(flags.sum()) for name, flags in space.split(space.best(SPARSITY)).items()}
    for turn in turns(begin(searcher, space, fixed(planted)), planted):
        for kept in turn.kept:
            counts = {name: int(flags.sum()) for name, flags in space.split(kept).items()}
            assert sum(counts.values()) == sum(wanted.values())
            # what each layer keeps is what `ratios` searches
            assert mask_searchers.name_of(searcher) == "ratios" or counts == wanted


@pytest.mark.parametrize("problem", [fixed, free])
def test_everything_follows_from_the_generator(spaces, searcher, problem):
    space = spaces["channels"]
    planted = Planted(space)
    before = torch.get_rng_state()
    first, again = (turns(begin(searcher, space, problem(planted)), planted) for _ in range(2))
    assert same(first, again)
    assert torch.equal(before, torch.get_rng_state())
    other = turns(begin(searcher, space, problem(planted), seed=1), planted)
    assert mask_searchers.name_of(searcher) == "magnitude" or not same(first, other)


def test_asking_twice_changes_nothing(spaces, searcher):
    space = spaces["weights"]
    planted, search = Planted(space), begin(searcher, space, FixedSparsity(SPARSITY))
    for _ in range(3):
        turn = search.ask()
        assert same([turn], [search.ask()])
        search.tell([planted(kept, turn.generation) for kept in turn.kept])


@pytest.mark.parametrize("name", sorted(mask_searchers))
@pytest.mark.parametrize("problem", [fixed, free])
@settings(deadline=None, max_examples=5)
@given(stop=st.integers(0, 100), seed=st.integers(0, 2**31))
def test_goes_on_after_a_stop_as_if_there_had_been_none(spaces, name, problem, stop, seed):
    space, searcher = spaces["weights, some gone"], mask_searchers[name]()
    planted = Planted(space)
    search = begin(searcher, space, problem(planted), seed=seed)
    turns(search, planted, stop=stop)
    written = save(dict(search.state()))
    rest = turns(search, planted)
    other = begin(searcher, space, problem(planted), seed=seed + 1)
    other.load(load(written))
    assert same(rest, turns(other, planted))


def found(searcher, space, *, seed=0, evaluations=600):
    """The most of the planted mask that a search asked for, in its last generation."""
    planted = Planted(space)
    asked = turns(begin(searcher, space, fixed(planted), evaluations=evaluations, seed=seed), planted)
    last = [kept for turn in asked if turn.generation == asked[-1].generation for kept in turn.kept]
    return max(float(planted.values[kept].sum()) / planted.most for kept in last)


def test_finds_more_than_chance_does(spaces, searcher):
    blind = found(RandomSearch(temperatures=(float("inf"),)), spaces["weights"])
    assert found(searcher, spaces["weights"]) > blind


@pytest.mark.parametrize("name", sorted(set(mask_searchers) - set(BASELINES)))
def test_learns_from_what_it_is_told(spaces, name):
    """At the same budget it beats both drawing by worth and the criterion's own choice."""
    baseline = max(found(mask_searchers[other](), spaces["weights"]) for other in BASELINES)
    assert found(mask_searchers[name](), spaces["weights"]) > baseline + 0.02
    channels, few = spaces["channels"], 100
    baseline = found(mask_searchers["magnitude"](), channels, evaluations=few)
    assert found(mask_searchers[name](), channels, evaluations=few) > baseline + 0.1


def test_a_search_without_a_budget_is_refused(spaces, searcher):
    if mask_searchers.name_of(searcher) != "magnitude":
        with pytest.raises(RecipeError, match="evaluations"):
            begin(searcher, spaces["weights"], FixedSparsity(SPARSITY), evaluations=0)
