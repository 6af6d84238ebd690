"""The plan of a study of mask searches, and what each cell depends on."""

from dataclasses import replace

import pytest

from kezuri.core.errors import KezuriError, RecipeError, UnknownName
from kezuri.distillation.losses.logits import Logits
from kezuri.prune.criteria.norm import L2
from kezuri.prune.scope import Global
from kezuri.prune.searchers.genetic import Genetic
from kezuri.prune.searchers.random import RandomSearch
from kezuri.recipe.build import plain
from kezuri.recipe.mask_study import dense_digest, mask_cells, mask_plan, part_in
from kezuri.recipe.model_choice import ModelChoice

INPUTS = {"data": "d", "weights": "w"}


@pytest.fixture
def plan():
    return mask_plan({"model": {"use": "lenet5"}, "data": "mnist", "searchers": "genetic,random", "draws": 3})


def folders(plan, **inputs):
    return {cell.folder for cell in mask_cells(plan, INPUTS | inputs)}


def test_every_searcher_at_every_sparsity_in_every_draw(plan):
    cells = mask_cells(plan, INPUTS)
    assert len(cells) == len({cell.folder for cell in cells}) == 2 * 3 * 3
    assert [cell.draw for cell in cells] == sorted(cell.draw for cell in cells)
    assert cells[0].folder.startswith("genetic-0.8-0-")


def test_searchers_with_settings():
    plan = mask_plan(
        {"model": {"use": "lenet5"}, "data": "mnist", "searchers": "genetic:population=8:elites=1, random"}
    )
    assert plan.searchers == {
        "genetic:population=8:elites=1": Genetic(population=8, elites=1),
        "random": RandomSearch(),
    }
    assert part_in("b:c=0.5:d=e") == {"use": "b", "c": 0.5, "d": "e"}


def test_parts_with_settings(plan):
    given = {"model": {"use": "lenet5"}, "data": "mnist", "searchers": "random"}
    made = mask_plan(
        {**given, "scope": "global:normalize=mean", "criterion": "l2", "distill": "logits:alpha=0.5"}
    )
    assert (made.scope, made.criterion, made.distill) == (Global(normalize="mean"), L2(), Logits(alpha=0.5))
    assert plan.scope == Global(normalize="none") and plan.distill is None


def test_a_plan_comes_back_from_its_plain_data(plan):
    changed = replace(plan, searchers={"bold": Genetic(mutation=0.1)}, per_class=("5",), search_per_class=2)
    assert mask_plan(plain(changed)) == changed


def test_more_of_everything_keeps_what_is_done(plan):
    more = replace(
        plan, draws=5, sparsities=(0.5, *plan.sparsities), per_class=("5", *plan.per_class), epochs=9
    )
    assert folders(plan) < folders(more)
    first = next(cell for cell in mask_cells(more, INPUTS) if cell.sparsity == 0.8)
    before = mask_cells(plan, INPUTS)[0].retrained
    assert first.retrained["1"] == before["1"] and first.retrained["all"] != before["all"]


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluations": 7},
        {"search_per_class": 1},
        {"norms": "reestimated"},
        {"model": ModelChoice("lenet300")},
    ],
)
def test_what_a_search_depends_on_changes_its_folder(plan, changes):
    assert not folders(plan) & folders(replace(plan, **changes))
    assert not folders(plan) & folders(plan, weights="other")


def test_the_dense_model_depends_on_its_training_alone(plan):
    assert dense_digest(plan, {}) == dense_digest(replace(plan, draws=1, epochs=3, evaluations=5), {})
    assert dense_digest(plan, {}) != dense_digest(replace(plan, train_epochs=3), {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparsities": [1.0]}, r"sparsity is a fraction in \[0, 1\), got 1.0"),
        ({"sparsities": []}, "needs at least one of its sparsities"),
        ({"searchers": ""}, "needs at least one of its searchers"),
        (
            {"searchers": "genetic:8"},
            "settings are written as in genetic:population=64:elites=4; got 'genetic:8'",
        ),
        ({"searchers": "genetic:elites=40"}, "elites are fewer than the population of 32, got 40"),
        ({"per_class": ["0"]}, "a number from 1 up, or 'all'; got '0'"),
        ({"draws": 0}, "draws is at least 1, got 0"),
        ({"few_epochs": 0}, "few_epochs is above 0, got 0"),
        ({"norms": "thawed"}, "thawed"),
        ({"search_per_class": 0}, "search_per_class is at least 1, got 0"),
    ],
)
def test_mistakes_are_said(changes, message):
    given = {"model": {"use": "lenet5"}, "data": "mnist", "searchers": "random"}
    with pytest.raises(KezuriError, match=message):
        mask_plan(given | changes)


def test_an_unknown_searcher_gets_a_guess():
    with pytest.raises(UnknownName, match="did you mean 'genetic'"):
        mask_plan({"model": {"use": "lenet5"}, "data": "mnist", "searchers": "genetik"})
    with pytest.raises(RecipeError, match="has no setting 'populaton'"):
        mask_plan({"model": {"use": "lenet5"}, "data": "mnist", "searchers": "genetic:populaton=3"})
