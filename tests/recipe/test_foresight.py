"""What is refused, or warned of, before anything is trained."""

import pytest

from kezuri.artifact.folder import RunFolder
from kezuri.core.errors import GoalUnreachable, KezuriError, UnknownName, UsageError
from kezuri.recipe.check import estimate
from kezuri.recipe.document import parse
from kezuri.recipe.foresight import foresee
from kezuri.recipe.prepare import prepare
from kezuri.recipe.recipe import recipe_from
from kezuri.recipe.run import resources_of

TEXT = """\
name: foreseen
model: {use: MODEL}
data: {use: FOLDER, validation: 0.25}
goal: {accuracy: -0.9}
steps:
  - {use: train, epochs: 1, batch_size: 16}
"""
SMALL = "resnet8, options: {width: 0.25}"
PLAIN = "lenet300_100"  # without BatchNorm


@pytest.fixture
def nets(tmp_path):
    """A file with a model no channel of which may go."""
    file = tmp_path / "nets.py"
    layers = "nn.Sequential(nn.Flatten(), nn.Linear(144, 4))"
    file.write_text(f"from torch import nn\n\ndef flat(**_):\n    return {layers}\n")
    return file


@pytest.fixture
def ready(images, nets):
    """A recipe that trains and then does this, prepared."""

    def ready(steps, model=SMALL):
        text = TEXT.replace("FOLDER", f"'{images}'").replace("MODEL", model)
        text = text.replace("FILE", str(nets))
        return prepare(recipe_from(parse(text + steps)), device="cpu")

    return ready


POPULATION = "use: population, members: 2, finetune: {epochs: 1, batch_size: 16}"


@pytest.mark.parametrize(
    ("steps", "model", "message", "traced"),
    [
        (
            "  - {use: quantize}\n  - {use: train, regularizer: group}\n",
            SMALL,
            r"step 3 \(train\) cannot make channels fade in what step 2 \(quantize\) has quantized",
            False,
        ),
        ("  - {use: quantize}\n  - {use: train, regularizer: bn_scale}\n", SMALL, r"step 3 \(train\)", False),
        ("  - {use: train, regularizer: bn_scale}\n", PLAIN, "this model has none; use .* 'group'", False),
        ("  - {use: train, regularizer: group}\n", "FILE:flat", "group has nothing to draw at", True),
        (f"  - {{{POPULATION}, intervals: 10}}\n", SMALL, "10 intervals are more than the 4 training", False),
    ],
)
def test_trainings_that_cannot_work_are_refused(ready, tmp_path, steps, model, message, traced):
    prepared = ready(steps, model)
    with pytest.raises(UsageError, match=message):
        foresee(prepared, resources_of(prepared, RunFolder(tmp_path / "run")))
    with pytest.raises(UsageError, match=message):
        estimate(prepared, tmp_path, trace=traced)


@pytest.mark.parametrize(
    ("steps", "model"),
    [
        ("  - {use: train, regularizer: group}\n  - {use: quantize}\n", PLAIN),
        ("  - {use: train, regularizer: bn_scale}\n  - {use: quantize}\n", SMALL),
        (f"  - {{{POPULATION}, intervals: 4}}\n", SMALL),
    ],
)
def test_those_that_work_are_not(ready, tmp_path, steps, model):
    prepared = ready(steps, model)
    foresee(prepared, resources_of(prepared, RunFolder(tmp_path / "run")))


MASK = "  - {use: prune, criterion: l1, granularity: weight, schedule: {use: one_shot, sparsity: 0.5}}\n"


@pytest.mark.parametrize(
    ("steps", "thrown"),
    [
        (f"{MASK}  - {{use: quantize}}\n  - {{use: distill, student: {{use: lenet300_100}}}}\n", True),
        (f"  - {{use: distill, student: {{use: lenet300_100}}}}\n{MASK}  - {{use: quantize}}\n", False),
        (f"{MASK}  - {{use: quantize}}\n  - {{use: distill}}\n", False),
    ],
)
def test_work_that_another_model_replaces_is_warned_of(ready, tmp_path, steps, thrown):
    said = [line for line in estimate(ready(steps), tmp_path).warnings if "goes on with another" in line]
    assert len(said) == thrown
    if thrown:
        start = "step 4 (distill) goes on with another model, lenet300_100: what step 2 (prune) and step 3 (q"
        assert said[0].startswith(start)


def test_the_batches_of_quantized_training_count(ready, tmp_path):
    def needs(settings):
        return estimate(ready(f"  - {{use: quantize, {settings}}}\n"), tmp_path)

    small, large = (needs(f"finetune: {{batch_size: {size}}}") for size in (16, 4000))
    assert large.memory > small.memory
    assert any("batch_size 4000 is more than the" in line for line in large.warnings)
    assert not any("batch_size" in line for line in small.warnings)
    never = needs("train: never, finetune: {batch_size: 4000}")
    assert never.memory == small.memory and not never.warnings


@pytest.mark.parametrize(
    ("step", "error", "said"),
    [
        ("budget: {size: 0.001}", GoalUnreachable, "no choice of options brings size down to"),
        ("spared: [nope]", UnknownName, "no layer to quantize named 'nope'"),
        ("replaced: {gelu: relu}", UsageError, "the model has no gelu to replace"),
    ],
)
def test_quantization_that_cannot_be_is_refused_before_the_first_training(ready, step, error, said, tmp_path):
    prepared = ready(f"  - {{use: quantize, {step}}}\n")
    with pytest.raises(error, match=said):
        foresee(prepared, resources_of(prepared, RunFolder(tmp_path / "run")))


def test_an_observer_of_one_range_is_no_observer_of_weights(ready):
    with pytest.raises(KezuriError, match="finds one range for a whole weight"):
        ready("  - {use: quantize, weight_observer: entropy}\n")
    ready("  - {use: quantize, weight_observer: entropy, per_channel: false}\n")
