import json
from dataclasses import replace
from pathlib import Path

import pytest

from kezuri.core.errors import RecipeError, UnknownName
from kezuri.recipe.document import parse
from kezuri.recipe.recipe import DataChoice, load_recipe, override, recipe_from, recipe_from_json
from kezuri.recipe.templates import TEMPLATES, template

TEXT = """\
name: small
model: {use: resnet20}
data: {use: fashion-mini}
goal: {accuracy: -0.02}
steps:
  - use: train
    epochs: 2
    lr: 1e-2
    optimizer: {use: adam}
  - use: pcas
    rate: [0.3, 0.2]
    rounds: 2
    augment: [flip, {use: cutout, size: 8}]
"""


def built(text=TEXT):
    return recipe_from(parse(text, "r.yaml"))


def test_reads_methods_from_plain_data():
    recipe = built()
    train, pcas = recipe.steps
    assert train.lr == 0.01 and type(train.optimizer).__name__ == "Adam"
    assert pcas.rate == (0.3, 0.2) and pcas.augment[1].size == 8 and recipe.goal.accuracy == -0.02


def test_complete_plain_data_gives_the_same_recipe():
    recipe = built()
    assert recipe_from_json(recipe.to_json(), "recipe.json") == recipe


@pytest.mark.parametrize(
    "step",
    [
        "quantize",
        "quantize, finetune: {}",
        "quantize, budget: {size: 0.2}",
        "prune, criterion: l2",
        "prune, criterion: l2, search: {evaluations: 10}",
        "pcas",
        "population",
        "prune_blocks, drop: 1",
        "distill, student: {use: resnet8}",
        "fixmatch",
        "train",
    ],
)
def test_complete_plain_data_is_the_same_to_the_byte(step):
    """A run is named by it, and `resume` refuses one whose recipe changed."""
    recipe = built(f"{TEXT.partition('  - use: train')[0]}  - {{use: {step}}}\n")
    again = recipe_from_json(json.loads(json.dumps(recipe.to_json())), "recipe.json")
    assert json.dumps(again.to_json()) == json.dumps(recipe.to_json())


def test_ceilings_are_read_by_name():
    recipe = built(TEXT.replace("rounds: 2", "rounds: 2\n    budget: {latency: 0.5, params: 20000}"))
    assert recipe.steps[1].budget == {"latency": 0.5, "params": 20000.0}
    assert recipe_from_json(recipe.to_json(), "recipe.json") == recipe


def test_complete_means_that_defaults_are_written_out():
    step = built().to_json()["steps"][1]
    assert step["lr_ratio"] == 0.5 and step["criterion"]["use"] == "pcas" and step["batch_size"] == 128


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("use: pcas", "use: pcsa", UnknownName, r"r.yaml:10: steps\[1\].use: no step named 'pcsa' .*did you mean 'pcas'"),
        ("rounds: 2", "round: 2", RecipeError, r"r.yaml:12: steps\[1\].round: step 'pcas' has no setting 'round'.*did you mean 'rounds'"),
        ("rate: [0.3, 0.2]", "rate: 1.5", RecipeError, r"r.yaml:11: steps\[1\].rate: .*1\.5"),
        ("rate: [0.3, 0.2]", "rate: [0.3]", RecipeError, r"r.yaml:11.*rate has 1 values for 2 rounds"),
        ("rate: [0.3, 0.2]", "rate: fast", RecipeError, r"r.yaml:11: steps\[1\].rate: expected .*number.*'fast'"),
        ("epochs: 2", "epochs: true", RecipeError, r"r.yaml:7: steps\[0\].epochs: expected a number, got True"),
        ("epochs: 2", "epochs: '2'", RecipeError, r"r.yaml:7: steps\[0\].epochs: expected a number, got '2'"),
        ("name: small", "name: a/b", RecipeError, r"name is used as a folder name.*'a/b'"),
        ("goal: {accuracy: -0.02}", "goal: {accuracy: -2}", RecipeError, r"r.yaml:4: goal.*-2"),
        ("model: {use: resnet20}", "model: resnet20", RecipeError, r"r.yaml:2: model: expected settings"),
        ("{use: cutout, size: 8}", "{use: cutuot}", UnknownName, r"r.yaml:13: .*did you mean 'cutout'"),
        ("data: {use: fashion-mini}\n", "", RecipeError, r"r.yaml: ?.*needs 'data'|r.yaml:1: .*needs 'data'"),
        ("rounds: 2", "rounds: 2\n    payoff: -1", RecipeError, r"r.yaml:13: steps\[1\].payoff: .*number of seconds, 0 for none, got -1"),
        ("rounds: 2", "rounds: 2\n    payoff: true", RecipeError, r"r.yaml:13: steps\[1\].payoff: expected a number, got True"),
        ("rounds: 2", "rounds: 2\n    budget: 0.5", RecipeError, r"r.yaml:13: steps\[1\].budget: expected settings .*got 0.5"),
        ("rounds: 2", "rounds: 2\n    budget: {mac: 0.5}", RecipeError, r"r.yaml:13: steps\[1\].budget: .*did you mean 'macs'"),
        ("rounds: 2", "rounds: 2\n    budget: {macs: half}", RecipeError, r"r.yaml:13: steps\[1\].budget.macs: expected a number, got 'half'"),
        ("rounds: 2", "rounds: 2\n    budget: {macs: -1}", RecipeError, r"r.yaml:13: steps\[1\].budget: .*fraction .*got -1"),
        ("rounds: 2", "rounds: 2\n    round_to: 0", RecipeError, r"r.yaml:13: steps\[1\].round_to: .*round_to=0"),
        ("rounds: 2", "rounds: 2\n    narrow: fine", RecipeError, r"r.yaml:13: steps\[1\].narrow: expected 'same' or 'finer', got 'fine'"),
        ("goal:", "gaol:", RecipeError, r"r.yaml:4: gaol: .*did you mean 'goal'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(old, new, error, message):
    assert old in TEXT
    with pytest.raises(error, match=message):
        built(TEXT.replace(old, new))


def test_overrides_read_like_the_file():
    document = parse(TEXT, "r.yaml")
    for text in (
        "steps.1.rate=0.25",
        "seed=3",
        "steps.0.optimizer={use: sgd, momentum: 0.5}",
        "goal.params=0.5",
    ):
        document = override(document, text)
    recipe = recipe_from(document)
    assert recipe.steps[1].rate == 0.25 and recipe.seed == 3 and recipe.goal.params == 0.5
    assert recipe.steps[0].optimizer.momentum == 0.5


@pytest.mark.parametrize("text", ["seed", "=3", "steps.7.rate=1", "name.x=1", "steps.x=1"])
def test_an_override_that_has_no_place_is_refused(text):
    with pytest.raises(RecipeError, match="override"):
        recipe_from(override(parse(TEXT, "r.yaml"), text))


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_templates_are_recipes(name, tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(template(name, file="r.yaml"))
    assert load_recipe(file).steps


def test_every_recipe_in_the_repository_is_valid():
    files = [*Path("recipes").glob("*.yaml"), *Path("src/kezuri/recipe").glob("*.yaml")]
    assert len(files) >= 2
    for file in files:
        recipe = load_recipe(file)
        assert recipe_from_json(recipe.to_json(), "x") == recipe


def test_steps_are_frozen_and_comparable():
    recipe = built()
    assert replace(recipe, seed=1) != recipe


@pytest.mark.parametrize(("source", "share"), [("train", 0.1), ("test", 0.5)])
def test_where_no_number_is_given_the_part_that_is_held_out_depends_on_where_from(source, share):
    assert DataChoice("mnist", validation_from=source).validation == share
    assert DataChoice("mnist", 0.2, source).validation == 0.2
    written = f"name: a\nmodel: {{use: lenet5}}\ndata: {{use: mnist, validation_from: {source}}}\nsteps: [{{use: train}}]"
    assert recipe_from(parse(written)).to_json()["data"]["validation"] == share
