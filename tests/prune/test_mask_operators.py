from dataclasses import replace
from math import inf

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kezuri.core.errors import RecipeError
from kezuri.prune.allocation import Given
from kezuri.prune.granularity import Block, Channel, Filter, Weight
from kezuri.prune.mask_operators import (
    check_by,
    check_temperatures,
    crossover,
    resized,
    sample,
    shared,
    swap,
    temperature_of,
    varied,
)
from kezuri.prune.scope import Contest, Global, Isomorphic, Local, NOfM
from kezuri.prune.space import Space

GLOBAL = Global(normalize="none")
SHAPES = {"one.weight": (6, 8, 1, 1), "two.weight": (10, 12), "three.weight": (4, 20)}


def space_of(granularity=None, scope=GLOBAL, *, seed=0, couplings=None, weights=None, **settings):
    generator = torch.Generator().manual_seed(seed)
    weights = weights or {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    groups = (granularity or Weight()).groups(weights, couplings)
    scores = {group.name: group.pool({n: weights[n].abs() for n in group.scored}) for group in groups}
    return Space(Contest(groups, scores), weights, scope, **settings)


@pytest.fixture(scope="module")
def channels(make_residual, couplings):
    weights = {n: w.detach() for n, w in make_residual().named_parameters() if w.dim() > 1}
    return lambda **settings: space_of(
        Channel(**settings, floor=1, floor_fraction=0), couplings=couplings, weights=weights
    )


SPACES = {
    "weights": lambda: space_of(),
    "weights, each layer": lambda: space_of(scope=Local()),
    "weights, given": lambda: space_of(scope=Local(), allocation=Given({"one": 0.1})),
    "weights, alike": lambda: space_of(scope=Isomorphic(normalize="none")),
    "2:4": lambda: space_of(scope=NOfM()),
    "blocks": lambda: space_of(Block(rows=4, columns=3)),
    "filters": lambda: space_of(Filter()),
}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def lawful(space, kept, sparsity):
    """What every operator promises of a mask."""
    assert kept.shape == (space.units,) and kept.dtype == torch.bool
    best = space.split(space.best(sparsity))
    if space.is_plain and space.scope == GLOBAL:
        assert int(kept.sum()) == int(space.best(sparsity).sum())
    elif space.is_plain and isinstance(space.scope, Local | NOfM):
        assert {n: int(f.sum()) for n, f in space.split(kept).items()} == {
            n: int(f.sum()) for n, f in best.items()
        }
    else:
        spare = [int(space.split(kept)[group.name].sum()) - group.floor for group in space.groups]
        assert min(spare) >= 0
        assert space.sparsity(kept) >= sparsity - 1e-9 or not any(spare)


@pytest.mark.parametrize("kind", SPACES)
@settings(deadline=None, max_examples=10)
@given(
    seed=st.integers(0, 2**31), sparsity=st.floats(0, 0.95), temperature=st.floats(0.01, 3), data=st.data()
)
def test_whatever_is_done_the_space_keeps_its_word(kind, seed, sparsity, temperature, data):
    space, generator = SPACES[kind](), seeded(seed)
    sparsity = 0.5 if kind == "2:4" else sparsity
    one = sample(space, sparsity, temperature, generator)
    other = sample(space, sparsity, inf, generator)
    group = data.draw(st.sampled_from([None, *range(len(space.groups))]))
    by = data.draw(st.sampled_from(["worth", "gradient", "none"]))
    count = data.draw(st.integers(0, space.units))
    before = one.clone()
    for kept in (
        one,
        other,
        crossover(one, other, space, sparsity, generator),
        crossover(one, other, space, sparsity, generator, layers=True),
        swap(one, count, space, sparsity, generator, by=by, group=group),
        resized(one, space, sparsity, generator),
    ):
        lawful(space, kept, sparsity)
    assert torch.equal(one, before)


@pytest.mark.parametrize("step", [1, 2])
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31), sparsity=st.floats(0, 0.6))
def test_channels_keep_their_floors_and_steps(channels, step, seed, sparsity):
    space, generator = channels(round_to=step), seeded(seed)
    one, other = (sample(space, sparsity, 1.0, generator) for _ in range(2))
    children = [crossover(one, other, space, sparsity, generator, layers=layers) for layers in (False, True)]
    for kept in (one, *children, swap(one, 2, space, sparsity, generator)):
        lawful(space, kept, sparsity)
        for group in space.groups:
            count = int(space.split(kept)[group.name].sum())
            assert count % group.step == 0 or count == len(group.sizes)


@pytest.mark.parametrize("kind", SPACES)
def test_what_was_removed_before_stays_removed(kind):
    space = SPACES[kind]()
    alive = torch.ones(space.units, dtype=torch.bool)
    alive[::5] = False
    space, generator = replace(space, alive=alive), seeded(0)
    sparsity = 0.5
    one, other = sample(space, sparsity, 1.0, generator), sample(space, sparsity, inf, generator)
    for kept in (
        one,
        other,
        crossover(one, other, space, sparsity, generator),
        swap(one, 50, space, sparsity, generator),
        resized(one, space, sparsity, generator),
        shared(space, torch.ones(len(space.groups)), sparsity),
    ):
        assert not (kept & ~alive).any()


def test_temperature_goes_from_the_criterions_choice_to_chance():
    space, generator = space_of(), seeded(0)
    best = space.best(0.7)
    assert torch.equal(sample(space, 0.7, 0, generator), best)
    assert torch.equal(sample(space, 0.7, 1e-6, generator), best)
    alike = [int((sample(space, 0.7, t, generator) & best).sum()) for t in (0.1, 0.4, 2.0, inf)]
    assert alike == sorted(alike, reverse=True) and alike[0] > 2 * alike[-1]


def test_draws_go_as_worth():
    """With one place and temperature 1, the chance of a unit is its share of all worth (Kool et al., 2019)."""
    weights = {"w.weight": torch.tensor([[1.0, 2.0, 5.0]])}
    space, generator = space_of(weights=weights), seeded(0)
    drawn = torch.stack([sample(space, 2 / 3, 1.0, generator) for _ in range(4000)])
    assert torch.allclose(drawn.double().mean(0), torch.tensor([1, 2, 5]).double() / 8, atol=0.03)


def test_worth_of_nothing_or_less_can_be_drawn_too():
    weights = {"w.weight": torch.zeros(2, 4)}
    space, generator = space_of(weights=weights), seeded(0)
    drawn = torch.stack([sample(space, 0.5, 0.5, generator) for _ in range(200)])
    assert (drawn.sum(1) == 4).all() and drawn.any(0).all()
    scores = {"w.weight": torch.tensor([-1.0, -2.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0]).double()}
    space = Space(Contest(space.groups, scores), weights, GLOBAL)
    assert (space.odds > 0).all()
    assert torch.equal(sample(space, 0.5, 0.01, generator), space.best(0.5))


def test_temperatures_take_turns_and_zero_comes_once():
    assert [temperature_of(n, (0.0, 0.1, 0.5)) for n in range(5)] == [0, 0.1, 0.5, 0.1, 0.5]
    assert [temperature_of(n, (0.5, inf)) for n in range(3)] == [0.5, inf, 0.5]
    assert [temperature_of(n, (0.0,)) for n in range(2)] == [0, 0]


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), layers=st.booleans())
def test_a_child_has_what_both_parents_have_and_nothing_else(seed, layers):
    space, generator = space_of(), seeded(seed)
    one, other = (sample(space, 0.6, 0.5, generator) for _ in range(2))
    child = crossover(one, other, space, 0.6, generator, layers=layers)
    assert (child | ~(one & other)).all() and (~child | one | other).all()
    assert int(child.sum()) == int(one.sum())


def test_a_child_by_layers_has_whole_layers_of_a_parent():
    space, generator = space_of(scope=Local()), seeded(0)
    one, other = (sample(space, 0.6, 0.5, generator) for _ in range(2))
    for _ in range(5):
        child = space.split(crossover(one, other, space, 0.6, generator, layers=True))
        for name, flags in child.items():
            assert any(torch.equal(flags, space.split(parent)[name]) for parent in (one, other))


def test_a_child_of_twins_is_their_triplet():
    space, generator = space_of(Block(rows=4, columns=3)), seeded(0)
    one = sample(space, 0.5, 0.5, generator)
    assert torch.equal(crossover(one, one, space, 0.5, generator), one)


@pytest.mark.parametrize("scope", [GLOBAL, Local()])
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), count=st.integers(0, 40), group=st.sampled_from([None, 0, 1, 2]))
def test_a_swap_changes_as_many_as_it_says(scope, seed, count, group):
    space, generator = space_of(scope=scope), seeded(seed)
    kept = sample(space, 0.5, 0.3, generator)
    child = swap(kept, count, space, 0.5, generator, group=group)
    gone, come = kept & ~child, child & ~kept
    assert int(gone.sum()) == int(come.sum()) <= count
    if scope == GLOBAL:
        start = sum(space.lengths[:group]) if group else 0
        part = kept if group is None else kept[start : start + space.lengths[group]]
        assert int(gone.sum()) == min(count, int(part.sum()), int((~part).sum()))
    if group is not None:
        changed = space.split(kept ^ child)
        assert not any(flags.any() for n, flags in changed.items() if n != space.groups[group].name)


def test_a_swap_prefers_what_it_should():
    space, generator = space_of(), seeded(0)
    kept = sample(space, 0.5, inf, generator)
    growth = space.worth.flip(0)

    def means(by):
        gone, come = torch.zeros(space.units), torch.zeros(space.units)
        grown = replace(space, growth=growth)
        for _ in range(200):
            child = swap(kept, 5, grown, 0.5, generator, by=by)
            gone, come = gone + (kept & ~child), come + (child & ~kept)
        return [
            float((count * of).sum() / count.sum())
            for count, of in ((gone, space.worth), (come, space.worth), (come, growth))
        ]

    plain, worth, gradient = means("none"), means("worth"), means("gradient")
    assert worth[0] < 0.5 * plain[0] and worth[1] > 1.2 * plain[1]
    assert gradient[0] < 0.5 * plain[0] and gradient[2] > 1.2 * plain[2] and gradient[1] < worth[1]


def test_nothing_to_swap_is_no_mistake():
    space, generator = space_of(), seeded(0)
    everything = space.best(0.0)
    assert torch.equal(swap(everything, 5, space, 0.0, generator), everything)


def test_another_sparsity_changes_no_more_than_it_must():
    space, generator = space_of(), seeded(0)
    kept = sample(space, 0.5, 0.3, generator)
    fewer, more = (resized(kept, space, sparsity, generator) for sparsity in (0.7, 0.3))
    assert (~fewer | kept).all() and (~kept | more).all()
    assert [space.sparsity(flags) for flags in (fewer, more)] == pytest.approx([0.7, 0.3], abs=0.01)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), sparsity=st.floats(0, 0.999), reach=st.floats(0, 1))
def test_a_varied_sparsity_keeps_a_fraction_more_or_fewer(seed, sparsity, reach):
    space = space_of()
    other = varied(sparsity, reach, space, seeded(seed))
    assert 0 <= other < 1
    density = max(1 - sparsity, 1 / space.units)
    assert density / (1 + reach) - 1e-9 <= 1 - other <= max(density, (1 - sparsity) * (1 + reach)) + 1e-9


def test_shares_stand_to_each_other_as_asked():
    space = space_of()
    kept = space.split(shared(space, torch.tensor([0.8, 0.4, 0.2]), 0.7))
    densities = [float(flags.double().mean()) for flags in kept.values()]
    assert sum(int(flags.sum()) for flags in kept.values()) == space.units - 0.7 * space.units // 1 - 1
    assert densities[0] / densities[1] == pytest.approx(2, rel=0.1)
    assert densities[1] / densities[2] == pytest.approx(2, rel=0.1)
    for group in space.groups:
        flags, worth = kept[group.name], space.split(space.worth)[group.name]
        assert worth[flags].min() >= worth[~flags].max()


def test_a_share_of_more_than_all_is_all():
    space = space_of()
    kept = space.split(shared(space, torch.tensor([1.0, 0.001, 0.001]), 0.5))
    assert kept["one.weight"].all() and int(sum(flags.sum() for flags in kept.values())) == space.units // 2


def test_mistakes_are_answered():
    with pytest.raises(RecipeError, match="from 0 to infinity"):
        check_temperatures((0.1, -1.0))
    with pytest.raises(RecipeError, match="from 0 to infinity"):
        check_temperatures(())
    with pytest.raises(RecipeError, match="grow is 'worth'"):
        check_by("loss")
