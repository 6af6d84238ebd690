import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kezuri.core.errors import RecipeError, ShapeError
from kezuri.prune.allocation import Given, Uniform
from kezuri.prune.granularity import Block, Weight
from kezuri.prune.scope import Contest, Global, Isomorphic, Local, NOfM, normalized
from kezuri.prune.units import UnitGroup


class Lumps(UnitGroup):
    """Units of any size, floor and step, each holding its own weights."""

    def pool(self, scores):
        return scores[self.name]

    def spread(self, values, fill):
        return {self.name: values.repeat_interleave(self.sizes)}


def lumps(name, sizes, *, floor=0, step=1):
    sizes = torch.tensor(sizes)
    floor = min(len(sizes), -(-floor // step) * step)
    return Lumps(name, sizes, floor, len(sizes), step, {name: 0}, None, len(sizes))


# Few distinct scores, so that ties (and zeros) are the rule; sizes differ, as those of layers do.
@st.composite
def contests(draw, largest_step=1):
    groups, scores = [], {}
    for name in draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True)):
        units = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1, max_size=30))
        groups.append(
            lumps(
                name,
                [n for _, n in units],
                floor=draw(st.integers(0, 4)),
                step=draw(st.integers(1, largest_step)),
            )
        )
        scores[name] = torch.tensor([float(score) for score, _ in units], dtype=torch.float64)
    return Contest(groups, scores, draw(st.sampled_from(["none", "mean", "rank"])))


SCOPES = [
    Local(),
    Local(count="units"),
    Global(),
    Global(count="units"),
    Global(normalize="rank"),
    Isomorphic(),
    Isomorphic("none", "units"),
]
sparsities = st.floats(0, 0.999)
any_scope = st.sampled_from(SCOPES)


def gone(group, kept, count):
    return int(group.sizes[~kept].sum() if count == "weights" else (~kept).sum())


def held(group, count):
    return int(group.sizes.sum() if count == "weights" else len(group.sizes))


def biggest(group, count):
    return (int(group.sizes.max()) if count == "weights" else 1) * group.step


@settings(deadline=None)
@given(contests(4), sparsities, st.sampled_from(["weights", "units"]))
def test_global_reaches_the_target_and_overshoots_by_less_than_one_step(contest, sparsity, count):
    choice = Global(count=count).select(contest, sparsity, Uniform())
    total = sum(held(g, count) for g in contest.groups)
    over = sum(gone(g, choice.kept[g.name], count) for g in contest.groups) - sparsity * total
    assert over < max(biggest(g, count) for g in contest.groups)
    if choice.shortfall == 0:
        assert over > -1e-5
    else:
        assert over < 0
        assert choice.shortfall * total == pytest.approx(-over, abs=1)


@settings(deadline=None)
@given(contests(4), sparsities, st.sampled_from(["weights", "units"]))
def test_local_reaches_the_target_in_each_layer(contest, sparsity, count):
    choice = Local(count).select(contest, sparsity, Uniform())
    for group in contest.groups:
        over = gone(group, choice.kept[group.name], count) - sparsity * held(group, count)
        assert over < biggest(group, count)
        at_floor = int(choice.kept[group.name].sum()) == group.floor
        assert over > -1e-5 or (at_floor and choice.shortfall > 0)


@settings(deadline=None)
@given(contests(4), sparsities, st.sampled_from(["weights", "units"]))
def test_isomorphic_reaches_the_target_in_each_shape(contest, sparsity, count):
    choice = Isomorphic(count=count).select(contest, sparsity, Uniform())
    for shape in {group.likeness for group in contest.groups}:
        alike = [group for group in contest.groups if group.likeness == shape]
        over = sum(gone(g, choice.kept[g.name], count) for g in alike) - sparsity * sum(
            held(g, count) for g in alike
        )
        assert over < max(biggest(g, count) for g in alike)
        at_floor = all(int(choice.kept[g.name].sum()) == g.floor for g in alike)
        assert over > -1e-5 or (at_floor and choice.shortfall > 0)


@settings(deadline=None)
@given(contests(4), sparsities, sparsities, any_scope)
def test_more_sparsity_only_removes_more(contest, one, other, scope):
    low, high = sorted((one, other))
    loose, tight = (scope.select(contest, s, Uniform()).kept for s in (low, high))
    assert all((tight[g.name] <= loose[g.name]).all() for g in contest.groups)


@settings(deadline=None)
@given(contests(4), sparsities, any_scope)
def test_floors_hold_and_what_is_kept_is_a_multiple_of_the_step(contest, sparsity, scope):
    kept = scope.select(contest, sparsity, Uniform()).kept
    for group in contest.groups:
        count = int(kept[group.name].sum())
        assert count >= group.floor
        assert count == len(group.sizes) or count % group.step == 0


@settings(deadline=None)
@given(contests(), sparsities, any_scope)
def test_no_removed_unit_is_worth_more_than_a_kept_one_of_its_group(contest, sparsity, scope):
    kept = scope.select(contest, sparsity, Uniform()).kept
    for group in contest.groups:
        flags, scores = kept[group.name], contest.scores[group.name]
        if flags.any() and not flags.all():
            assert scores[~flags].max() <= scores[flags].min()
            ties = scores == scores[flags].min()
            assert flags[ties].int().diff().le(0).all()  # of equals the lower index stays


@settings(deadline=None)
@given(contests(), any_scope)
def test_no_sparsity_removes_nothing(contest, scope):
    choice = scope.select(contest, 0.0, Uniform())
    assert choice.shortfall == 0
    assert all(choice.kept[g.name].all() for g in contest.groups)


def test_floors_that_make_the_target_unreachable_are_reported():
    contest = Contest([lumps("a", [1] * 10, floor=4)], {"a": torch.arange(10.0)})
    for scope in (Local(), Global()):
        choice = scope.select(contest, 0.9, Uniform())
        assert choice.kept["a"].tolist() == [False] * 6 + [True] * 4
        assert choice.shortfall == pytest.approx(0.3)


def test_of_equals_the_lower_index_and_the_earlier_layer_stay():
    contest = Contest([lumps(n, [1, 1, 1]) for n in "ab"], dict.fromkeys("ab", torch.zeros(3)))
    kept = Global().select(contest, 4 / 6, Uniform()).kept
    assert kept["a"].tolist() == [True, True, False]
    assert kept["b"].tolist() == [False, False, False]


def test_a_target_that_is_whole_is_met_exactly_in_spite_of_binary_fractions():
    contest = Contest([lumps("a", [1] * 30)], {"a": torch.arange(30.0)})
    assert int((~Global().select(contest, 0.1, Uniform()).kept["a"]).sum()) == 3


def test_auto_does_what_the_criterion_needs_and_none_overrides_it():
    groups = [lumps("small", [1] * 4), lumps("large", [1] * 4)]
    scores = {
        "small": torch.tensor([1.0, 2.0, 3.0, 4.0]),
        "large": torch.tensor([100.0, 200.0, 300.0, 400.0]),
    }
    contest = Contest(groups, scores, "mean")
    evenly = Global().select(contest, 0.5, Uniform()).kept
    assert [int(evenly[n].sum()) for n in ("small", "large")] == [2, 2]
    raw = Global(normalize="none", count="units").select(contest, 0.5, Uniform()).kept
    assert [int(raw[n].sum()) for n in ("small", "large")] == [0, 4]


def test_isomorphic_lets_only_equal_shapes_compete():
    groups = [lumps("a", [1] * 4), lumps("b", [1] * 4), lumps("c", [1] * 2)]
    scores = {
        "a": torch.tensor([1.0, 2, 3, 4]),
        "b": torch.tensor([5.0, 6, 7, 8]),
        "c": torch.tensor([9.0, 10]),
    }
    kept = Isomorphic("none").select(Contest(groups, scores), 0.5, Uniform()).kept
    assert {name: int(flags.sum()) for name, flags in kept.items()} == {"a": 0, "b": 4, "c": 1}
    assert list(kept) == ["a", "b", "c"]
    with pytest.raises(RecipeError, match="no say in the scope isomorphic"):
        Isomorphic().select(Contest(groups, scores), 0.5, Given({"a": 0.1}))
    with pytest.raises(RecipeError, match="'filters'"):
        Isomorphic(count="filters")


def test_normalized_scores():
    scores = torch.tensor([4.0, 0.0, 4.0, 8.0], dtype=torch.float64)
    assert normalized(scores, "mean").tolist() == [1, 0, 1, 2]
    assert normalized(scores, "rank").tolist() == [
        0.75,
        0.25,
        0.5,
        1,
    ]  # of equals the lower index is worth more
    assert normalized(torch.zeros(3), "mean").tolist() == [0, 0, 0]


def test_two_of_four_keeps_the_best_two_in_every_run_along_the_inputs():
    weight = torch.randn(3, 8, 2, 2, generator=torch.Generator().manual_seed(0)).abs()
    (group,) = Weight().groups({"w": weight}, None)
    contest = Contest([group], {"w": group.pool({"w": weight})})
    mask = group.expand(NOfM(2, 4).select(contest, 0.5, Uniform()).kept["w"])["w"]
    runs = mask.movedim(1, -1).reshape(-1, 4)
    assert runs.sum(1).tolist() == [2] * len(runs)
    values = weight.movedim(1, -1).reshape(-1, 4)
    kept, lost = values[runs].view(-1, 2), values[~runs].view(-1, 2)
    assert (kept.min(1).values > lost.max(1).values).all()


def contest_of(granularity, *shape):
    (group,) = granularity.groups({"conv1.weight": torch.ones(shape)}, None)
    return Contest([group], {group.name: torch.ones(len(group.sizes))})


def test_two_of_four_refuses_another_sparsity():
    with pytest.raises(RecipeError, match=r"2:4 means sparsity 0.5, got 0.9"):
        NOfM().select(contest_of(Weight(), 4, 4), 0.9, Uniform())


def test_two_of_four_names_the_layer_it_does_not_divide():
    with pytest.raises(ShapeError, match=r"conv1\.weight has 3 units in a row.*ignore"):
        NOfM().select(contest_of(Weight(), 4, 3), 0.5, Uniform())


def test_two_of_four_refuses_units_of_different_size():
    with pytest.raises(ShapeError, match=r"conv1\.weight differ in size.*ignore"):
        NOfM().select(contest_of(Block(1, 2), 4, 7), 0.5, Uniform())


def test_two_of_four_refuses_to_break_a_floor_or_a_step():
    for group in (lumps("a", [1] * 8, floor=5), lumps("a", [1] * 8, step=8)):
        with pytest.raises(RecipeError, match="would keep 4 units of a"):
            NOfM().select(Contest([group], {"a": torch.ones(8)}), 0.5, Uniform())


@pytest.mark.parametrize("scope", [Global(), NOfM()], ids=["global", "n_of_m"])
def test_only_local_listens_to_an_allocation(scope):
    with pytest.raises(RecipeError, match=r"allocation 'given' has no say.*local"):
        scope.select(contest_of(Weight(), 4, 4), 0.5, Given({"conv1": 0.1}))


def test_settings_are_checked():
    with pytest.raises(RecipeError, match="n < m, got 4:4"):
        NOfM(4, 4)
    with pytest.raises(RecipeError, match="'max'"):
        Global(normalize="max")
    with pytest.raises(RecipeError, match="'bytes'"):
        Local("bytes")
