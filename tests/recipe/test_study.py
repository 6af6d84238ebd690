"""The grid of a study as data."""

from collections import Counter
from itertools import permutations

import pytest

from kezuri.core.errors import RecipeError, UnknownName, UsageError
from kezuri.recipe import study
from kezuri.recipe.recipe import recipe_from_json
from kezuri.recipe.steps.distill import Distill
from kezuri.recipe.steps.prune import Prune
from kezuri.recipe.steps.quantize import Quantize
from kezuri.recipe.study import LINKS, METHODS, Layers, Plan, cells

LAYERS = Layers(conv=("features.0", "features.4"), dense=("fc1", "fc2"))


def grid(**settings):
    return cells(Plan(**{"data": "mnist", "seeds": 1, "epochs": 4, **settings}), LAYERS)


def named(made):
    return {cell.name: cell for cell in made}


def steps_of(cell):
    return recipe_from_json(cell.recipe, cell.name).steps


def test_every_method_has_its_cells_once_a_seed():
    made = grid(seeds=2)
    assert set(METHODS) | {"teacher"} == {cell.method for cell in made}
    assert set(Counter(cell.name for cell in made).values()) == {2}
    counts = Counter(cell.method for cell in made if cell.seed == 1)
    assert counts["prune"] == 8 and counts["chain"] == 6


def test_cells_find_the_weights_they_begin_with():
    left = set()
    for cell in grid(seeds=2):
        assert set(cell.needs) <= left
        left |= {cell.weights} - {None}
    assert len(left) == 4  # a student and a teacher a seed
    made = named(grid())
    student, teacher = made["student"].weights, made["teacher"].weights
    assert made["distill-prune-quantize"].needs == (student, teacher)
    assert made["distilled"].needs == (teacher,) and made["student-longer"].needs == ()


def test_other_settings_share_no_weights():
    assert not {c.weights for c in grid()} & {c.weights for c in grid(epochs=5)} - {None}


def test_with_and_without_teacher_and_assistant_train_equally_long():
    made = named(grid(methods=("baseline", "distill", "assistant")))
    alone, taught, assisted = (made[n] for n in ("student-longer", "distilled", "distilled-assistant"))
    assert alone.epochs == taught.epochs == assisted.epochs == 8
    (train,), (distill,), (chain,) = map(steps_of, (alone, taught, assisted))
    assert train.epochs == distill.epochs == 8
    assert isinstance(chain, Distill) and chain.epochs * (len(chain.assistants) + 1) == 8
    assert all(cell.recipe["model"]["weights"] is None for cell in (alone, taught, assisted))
    longer = made["distilled-assistant-longer"]
    (chain,) = steps_of(longer)
    assert longer.epochs == 16 and chain.epochs == distill.epochs  # the student; its assistant as long again


def test_pruning_touches_one_kind_of_layers():
    pruned = [cell for cell in grid() if cell.method == "prune"]
    for cell in pruned:
        (step,) = steps_of(cell)
        assert isinstance(step, Prune)
        assert step.ignore == (LAYERS.dense if cell.name.endswith("conv") else LAYERS.conv)
        assert step.cuts == ("-structured-" in cell.name)
        assert step.schedule.rates() == [0.5]


def test_every_order_is_in_the_grid_and_none_is_refused():
    chains = [cell for cell in grid() if cell.method == "chain"]
    assert {cell.name for cell in chains} == {"-".join(order) for order in permutations(LINKS)}
    assert not any(cell.refused for cell in chains)
    assert len({cell.epochs for cell in chains}) == 1


def test_what_cannot_be_is_refused_with_the_reason(monkeypatch):
    def refuse(recipe):
        raise UsageError(f"{recipe.name} makes no sense")

    monkeypatch.setattr(study, "check_order", refuse)
    assert {cell.refused for cell in grid(methods=("ptq",))} == {
        "student makes no sense",
        "ptq makes no sense",
    }


def test_only_the_methods_asked_for_and_what_they_need():
    assert [cell.name for cell in grid(methods=("ptq",))] == ["student", "ptq"]
    assert [cell.name for cell in grid(methods=("distill",))] == ["student", "teacher", "distilled"]
    qat = named(grid(methods=("qat",)))["qat"]
    (step,) = steps_of(qat)
    assert isinstance(step, Quantize) and step.train == "always" and step.finetune.epochs == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ()}, "at least one method"),
        ({"epochs": 0}, "epochs must be above 0"),
        ({"seeds": 0}, "at least once"),
        ({"sparsity": 1.0}, r"sparsity is a fraction in \(0, 1\)"),
    ],
)
def test_bad_settings_are_said(settings, message):
    with pytest.raises(UsageError, match=message):
        grid(**settings)


def test_bad_names_and_numbers_are_said():
    with pytest.raises(UnknownName, match="did you mean 'prune'"):
        grid(methods=("prun",))
    with pytest.raises(RecipeError, match="batch_size must be 1 or more"):
        grid(batch_size=0)
