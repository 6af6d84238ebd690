"""What is wrong with a recipe is said with file and line, the value got and the values allowed."""

import re

import pytest


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        (["steps.1.rate=0"], 2, r"override 'steps.1.rate=0': steps\[1\].rate: .* \(0, 1\), got 0.0"),
        (["steps.1.rate=1"], 2, r"\(0, 1\), got 1.0"),
        (["steps.1.rate=-1"], 2, r"\(0, 1\), got -1.0"),
        (["steps.1.rate=fast"], 2, "expected a number or a list, got 'fast'"),
        (["steps.1.lr_ratio=0"], 2, r"\(0, 1\].*got 0.0"),
        (["steps.1.lr_ratio=2"], 2, r"\(0, 1\].*got 2.0"),
        (["steps.1.lr=-1"], 2, r"above 0, got -1.0"),
        (["steps.1.rounds=0"], 2, "at least one round, got rounds=0"),
        (["steps.1.batch_size=0"], 2, "1 or more, got 0"),
        (["steps.1.payoff=-1"], 2, r"steps\[1\].payoff: .* number of seconds, 0 for none, got -1.0"),
        (["steps.1.budget={mac: 0.5}"], 2, "no budget named 'mac'.*did you mean 'macs'"),
        (["steps.1.criterion=pcsa"], 2, "no criterion named 'pcsa'.*did you mean 'pcas'"),
        (["steps.1.rte=0.1"], 2, "no setting 'rte' .*did you mean 'rate'"),
        (["steps.1.ignore=[layr1]"], 2, "'layr1'; near: layer1"),
        (["steps.9.lr=1"], 2, "the list has the items 0 to 1"),
        (["name.x=1"], 2, "nothing can be set inside it"),
        (["seed"], 2, "an override is key=value"),
        (["seed=-1"], 2, "0 or more, got -1"),
        (["name=../x"], 2, "used as a folder name.*'../x'"),
        (["goal.accuracy=1.0"], 2, "a fraction.*got 1.0"),
        (["goal.objective=smalest"], 2, "'smallest' or 'fastest', got 'smalest'"),
        (["data.validation=1.0"], 2, r"a count of images \(a whole number\) or a fraction.*got 1.0"),
        (["data.validation=5000"], 3, "5000 of 77 images cannot be set aside"),
        (["data.use=fashion-mni"], 2, "did you mean 'fashion-mini'.*no folder fashion-mni either"),
        (["data.use=./absent"], 3, "no folder absent"),
        (["model.use=resnet9"], 2, "no model named 'resnet9'.*did you mean 'resnet8'"),
        (["model.use=nets.py"], 2, "name the function.*nets.py:FUNCTION"),
        (["model.use=nets.py:net"], 2, "no file nets.py"),
        (["model.options.width=0"], 2, "above 0, got 0"),
        (["model.options.channels=3"], 2, "first convolution takes 3 channels: build it for 1"),
        (["model.options.classes=7"], 2, r"answers \(2, 7\), but the data has 4"),
        (["model.weights=absent.pt"], 3, "no weights 'absent.pt'; tried:"),
        (["model.weights=r.yaml"], 3, "would run code"),
    ],
)
def test_a_wrong_value(kezuri, recipe, changes, code, message):
    ended, _, said = kezuri("check", recipe, *changes)
    assert ended == code
    assert re.search(message, said, re.DOTALL), said


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"", 2, "r.yaml: .*got nothing"),
        (b"- a\n", 2, "r.yaml: .*got \\['a'\\]"),
        (b"\x80\x81", 3, "r.yaml is not a recipe"),
        (b"name: x\nsteps: [\n", 2, "r.yaml:3: not valid YAML"),
        (b"name: x\nname: y\n", 2, "r.yaml:2: name is given twice \\(first in line 1\\)"),
        (b"nam: x\n", 2, "r.yaml:1: nam: .*did you mean 'name'"),
    ],
)
def test_a_file_that_is_no_recipe(kezuri, recipe, content, code, message):
    recipe.write_bytes(content)
    ended, _, said = kezuri("check", recipe)
    assert ended == code and re.search(message, said), said


def test_a_folder_or_nothing_where_a_recipe_should_be(kezuri, tmp_path):
    assert kezuri("check", tmp_path)[0] == 3
    assert kezuri("run", "absent.yaml")[::2] == (3, "kezuri: no recipe file absent.yaml\n")


def test_the_command_to_go_on_with_can_be_pasted(kezuri, recipe, recipe_text, images):
    recipe = recipe.with_name("größer & kleiner.yaml")
    recipe.write_text(recipe_text.replace(str(images), images.name), encoding="utf-8")
    code, said, _ = kezuri("check", recipe, "seed=3", "--data", images.parent, "--runs", "my runs")
    assert code == 0
    assert said.splitlines()[-1].endswith(f"'{recipe}' seed=3 --data {images.parent} --runs 'my runs'")


def test_a_batch_larger_than_the_data_is_allowed_but_said(kezuri, recipe):
    code, _, said = kezuri("check", recipe, "steps.0.batch_size=500")
    assert code == 0 and "batch_size 500 is more than the 58 training images" in said


def test_runs_cannot_lie_in_a_file(kezuri, recipe):
    assert kezuri("check", recipe, "--runs", recipe)[0] == 2
    assert kezuri("run", recipe, "--runs", recipe)[0] == 4


def test_devices_and_threads_that_are_not_there(kezuri, recipe):
    code, _, said = kezuri("check", recipe, "--device", "tpu")
    assert code == 2 and "have: auto, cpu" in said
    assert kezuri("run", recipe, "--threads", 0)[0] == 2
    code, _, said = kezuri("run", recipe, "--threads", 99999)
    assert code == 2 and "from 1 to 256" in said


def test_an_unknown_option_or_command_is_a_usage_error(kezuri, recipe):
    assert kezuri("check", recipe, "--bogus")[0] == 2
    assert kezuri("chek", recipe)[0] == 2
    assert kezuri("check")[0] == 2
