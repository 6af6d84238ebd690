from pathlib import Path

import pytest
import torch
from torch import nn

from kezuri.core.errors import DataError, ModelError
from kezuri.recipe.document import parse
from kezuri.recipe.prepare import IN_MEMORY, find_weights, prepare
from kezuri.recipe.recipe import recipe_from, recipe_from_json


@pytest.fixture
def text(recipe_text):
    return recipe_text


def prepared(text, **places):
    return prepare(recipe_from(parse(text)), device="cpu", **places)


def test_the_same_recipe_on_the_same_inputs_is_the_same_run(text):
    assert prepared(text).run_name == prepared(text.replace("seed: 0", "seed: 0  # comment")).run_name


@pytest.mark.parametrize(
    ("old", "new"),
    [("seed: 0", "seed: 1"), ("rate: 0.3", "rate: 0.31"), ("validation: 0.25", "validation: 0.3")],
)
def test_any_setting_makes_another_run(text, old, new):
    assert prepared(text).fingerprint != prepared(text.replace(old, new)).fingerprint


def test_where_inputs_lie_does_not_make_another_run(text, images):
    moved = text.replace(f"'{images}'", f"'{images.name}'")
    one, other = (
        prepared(moved, data_root=images.parent),
        prepared(moved, data_root=images.parent, near=images),
    )
    assert one.fingerprint == other.fingerprint
    assert other.places == {"data_root": str(images.parent), "near": str(images)}


def test_code_and_weights_are_part_of_a_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "from torch import nn\ndef net(classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(144, classes))\n"
    text = text.replace("{use: resnet8, options: {width: 0.25}}", "{use: 'nets.py:net'}")
    Path("nets.py").write_text(code)
    first = prepared(text)
    Path("nets.py").write_text(code + "# changed\n")
    assert set(first.inputs) == {"data", "code"} and prepared(text).fingerprint != first.fingerprint
    weighted = text.replace("net'}", "net', weights: w.pt}")
    torch.save(first.model.state_dict(), "w.pt")
    assert set(prepared(weighted).inputs) == {"data", "code", "weights"}


def test_fresh_models_start_alike_and_apart(text):
    ready = prepared(text)
    one, other = ready.fresh(), ready.fresh()
    assert one is not other
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_weights_are_looked_for_beside_the_recipe_first(tmp_path, monkeypatch):
    here, near, store = (tmp_path / name for name in ("here", "near", "store"))
    for folder in (here, near, store):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("KEZURI_MODELS", str(store))
    for folder in (store, here, near):
        (folder / "w.pt").touch()
        assert find_weights("w.pt", near) == folder / "w.pt"
    with pytest.raises(DataError) as error:
        find_weights("absent.pt", near)
    assert all(str(folder / "absent.pt") in str(error.value) for folder in (here, near, store))


def test_a_model_in_memory_is_copied(text):
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 4))
    ready = prepare(recipe_from(parse(text)), model=model, device="cpu")
    with torch.no_grad():
        ready.model[1].weight.zero_()
    assert model[1].weight.any() and ready.fresh()[1].weight.any() and ready.spec is None


def test_what_was_in_memory_only_cannot_be_made_from_a_recipe(text):
    plain = recipe_from(parse(text)).to_json()
    without_model = recipe_from_json({**plain, "model": {"use": IN_MEMORY}}, "recipe.json")
    with pytest.raises(ModelError, match="in Python only"):
        prepare(without_model, device="cpu")
    without_data = recipe_from_json({**plain, "data": {"use": IN_MEMORY}}, "recipe.json")
    with pytest.raises(DataError, match="in Python only"):
        prepare(without_data, device="cpu")
