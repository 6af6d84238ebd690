"""The step `distill`, and runs in which another model takes the place of the recipe's."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kezuri.artifact.folder import RunFolder
from kezuri.artifact.manifest import Manifest
from kezuri.core.errors import CorruptArtifact, DataError, Interrupted, ModelError, RecipeError, UsageError
from kezuri.data import from_tensors
from kezuri.distillation import Attention, Hint, Logits
from kezuri.measure.macs import count_params
from kezuri.model.load import ModelSpec, load_model
from kezuri.model.portable import read_model, save_model
from kezuri.model.shrink import Structure
from kezuri.recipe.check import estimate
from kezuri.recipe.document import parse
from kezuri.recipe.foresight import foresee, rehearse
from kezuri.recipe.listener import SilentListener
from kezuri.recipe.prepare import prepare
from kezuri.recipe.recipe import recipe_from, recipe_from_json
from kezuri.recipe.run import resources_of, run
from kezuri.recipe.step import ModelState
from kezuri.recipe.steps.distill import Assistant, Distill
from kezuri.train import Training, fit

SMALL = "{use: resnet8, options: {width: 0.25, shortcut: B}}"
THIRD = "{use: resnet8, options: {width: 0.3}}"
HALF = "{use: resnet8, options: {width: 0.5}}"
TEXT = """\
name: learn
model: {use: resnet8, options: {width: 0.5, shortcut: B}, weights: teacher.safetensors}
data: {use: fashion-mini}
goal: {accuracy: -0.9}
steps:
"""


@pytest.fixture(scope="module")
def data():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 3
    images = torch.randn(3, 1, 12, 12, generator=draw)[labels] + torch.randn(240, 1, 12, 12, generator=draw)
    return from_tensors((images[:180], labels[:180]), (images[180:], labels[180:]), validation=60)


@pytest.fixture(scope="module")
def near(data, tmp_path_factory):
    """A folder with the weights of a trained teacher."""
    folder = tmp_path_factory.mktemp("weights")
    spec = ModelSpec("resnet8", {"width": 0.5, "shortcut": "B"})
    teacher = load_model(spec, classes=3, image_shape=data.image_shape)
    fit(teacher, data, Training(epochs=4, lr=0.05, batch_size=20), seed=0, device="cpu")
    save_file(teacher.state_dict(), folder / "teacher.safetensors")
    return folder


@pytest.fixture
def ready(data, near):
    """A recipe with these steps, prepared."""

    def ready(steps, text=TEXT):
        return prepare(recipe_from(parse(text + steps)), data=data, near=near, device="cpu")

    return ready


@pytest.fixture
def resources(ready, tmp_path):
    def resources(prepared, name="run", listener=None):
        return resources_of(prepared, RunFolder(tmp_path / name), listener)

    return resources


class Hearing(SilentListener):
    said = warned = ()

    def warn(self, text):
        self.warned = (*self.warned, text)

    def say(self, text):
        self.said = (*self.said, text)


def weights(model):
    return model.state_dict()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


QUICK = "epochs: 1, lr: 0.05, batch_size: 30"


def test_a_recipe_names_student_teacher_loss_and_assistants():
    text = TEXT + (
        f"  - {{use: distill, {QUICK}, student: {SMALL}, loss: {{use: hint, weight: 10, beside: logits}},\n"
        f"     assistants: [resnet20, {{use: resnet8, options: {{width: 0.5}}, loss: {{use: logits, temperature: 2}}}}]}}\n"
    )
    step = recipe_from(parse(text)).steps[0]
    assert step.loss == Hint(weight=10, beside=Logits())
    assert step.assistants == (
        Assistant("resnet20"),
        Assistant("resnet8", {"width": 0.5}, loss=Logits(temperature=2)),
    )
    assert step.compresses and not Distill().compresses
    complete = recipe_from(parse(text)).to_json()
    assert recipe_from_json(json.loads(json.dumps(complete)), "recipe.json").steps[0] == step


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("loss: logit", r"no distillation loss named 'logit' \(have: attention, decoupled, hint, logits\)"),
        ("loss: {use: logits, alpha: 2}", "alpha is the teacher's share"),
        ("assistants: autto", "expected .*auto.*got 'autto'"),
        ("assistants: [{use: resnet20, los: logits}]", "has no setting 'los'"),
        ("candidates: [resnet20]", "candidates is for assistants: auto"),
        (
            "assistants: auto, candidates: [vgg, vgg]",
            "vgg is named 2 times among the candidates; name each once",
        ),
        ("probe_epochs: 2", "probe_epochs is for assistants: auto"),
        ("assistants: auto, probe_epochs: -1", "probe_epochs must be above 0, got -1"),
        (
            "assistants: auto, probe_epochs: 2, lr_schedule: {use: cosine, warmup: 3}",
            "the warmup of 3 epochs",
        ),
        ("student: resnet8", "expected settings"),
    ],
)
def test_wrong_settings_are_refused_with_their_line(settings, message):
    with pytest.raises(RecipeError, match=rf":6: .*{message}"):
        recipe_from(parse(TEXT + f"  - {{use: distill, epochs: 10, {settings}}}\n"))


def test_models_that_steps_name_are_looked_at_before_the_run(ready, near):
    with pytest.raises(DataError, match=r"no weights 'nowhere.pt'"):
        ready(f"  - {{use: distill, {QUICK}, teacher: {{use: resnet20, weights: nowhere.pt}}}}\n")
    with pytest.raises(RecipeError, match="no model named 'resnet21'"):
        ready(f"  - {{use: distill, {QUICK}, student: {{use: resnet21}}}}\n")
    named = "teacher: {use: resnet8, options: {width: 0.5, shortcut: B}, weights: teacher.safetensors}"
    prepared = ready(f"  - {{use: distill, {QUICK}, {named}}}\n")
    assert prepared.inputs["weights teacher.safetensors"] == prepared.inputs["weights"]


def test_a_student_learns_from_the_model_before_it(ready, resources):
    prepared = ready(f"  - {{use: distill, {QUICK}, student: {SMALL}}}\n")
    there, step = resources(prepared), prepared.recipe.steps[0]
    before = ModelState(prepared.model)
    kept = {name: value.clone() for name, value in weights(before.model).items()}
    after = step.apply(before, there, stage="1-distill")
    assert after.spec == ModelSpec("resnet8", {"width": 0.25, "shortcut": "B"})
    assert after.structure == Structure() and after.masks is None
    assert same(kept, weights(before.model))
    record = there.stages.record("1-distill")
    assert record["teacher"] > 0.5 and record["assistants"] == [] and record["choice"] is None
    again = step.apply(before, resources(prepared), stage="1-distill")
    assert again.spec == after.spec and same(weights(again.model), weights(after.model))


def test_the_model_itself_learns_from_the_dense_or_a_named_one(ready, resources, near):
    prepared = ready(f"  - {{use: distill, {QUICK}}}\n")
    there, step = resources(prepared), prepared.recipe.steps[0]
    with pytest.raises(UsageError, match="distill has no teacher: nothing was compressed before"):
        step.apply(ModelState(prepared.model), there, stage="1-distill")
    with pytest.raises(UsageError, match="distill has no teacher"):
        foresee(prepared, there)
    with pytest.raises(UsageError, match="distill has no teacher"):
        estimate(prepared, near)
    pruned = ready(
        "  - {use: prune, criterion: l2, schedule: {use: one_shot, sparsity: 0.2},\n"
        f"     finetune: {{{QUICK}, distill: {{loss: attention}}}}}}\n"
        f"  - {{use: distill, {QUICK}}}\n"
    )
    assert [scene.resources.dense is None for scene in rehearse(pruned, resources(pruned))] == [False, False]
    foresee(pruned, resources(pruned))
    named = "teacher: {use: resnet8, options: {width: 0.5, shortcut: B}, weights: teacher.safetensors}"
    other = ready(
        f"  - {{use: distill, {QUICK}, {named}}}\n", TEXT.replace(", weights: teacher.safetensors", "")
    )
    after = other.recipe.steps[0].apply(ModelState(other.model), resources(other, "b"), stage="1-distill")
    assert after.spec is None and not same(weights(after.model), weights(other.model))


def test_an_untrained_teacher_is_refused(ready, resources):
    prepared = ready(
        f"  - {{use: distill, {QUICK}, student: {SMALL}}}\n",
        TEXT.replace(", weights: teacher.safetensors", ""),
    )
    with pytest.raises(UsageError, match="no better than chance, so it has nothing to teach: train it first"):
        prepared.recipe.steps[0].apply(ModelState(prepared.model), resources(prepared), stage="1-distill")


def test_misfits_are_foreseen(ready, resources):
    hint = "loss: {use: hint, taps: {layer9: layer1}}"
    for settings, message in (
        (f"student: {SMALL}, {hint}", "no feature of the student is named 'layer9'; near: layer3"),
        (
            f"student: {SMALL}, assistants: [{{use: resnet8, options: {{width: 0.4}}, {hint}}}]",
            "named 'layer9'",
        ),
        (f"student: {SMALL}, assistants: auto", "no assistant between resnet8 and resnet8"),
        (
            "student: {use: mobilenet_v1}, assistants: auto",
            "no assistants are known between mobilenet_v1 and resnet8",
        ),
    ):
        prepared = ready(f"  - {{use: distill, {QUICK}, {settings}}}\n")
        with pytest.raises(UsageError, match=message):
            foresee(prepared, resources(prepared))
    for step in (f"{{use: train, {QUICK}, distill: {{{hint}, teacher: {{use: resnet8}}}}}}",):
        prepared = ready(f"  - {step}\n")
        with pytest.raises(UsageError, match="named 'layer9'"):
            foresee(prepared, resources(prepared))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            f"student: {SMALL}, assistants: [resnet20]",
            "assistant 1 .resnet20. has .* the teacher, .* 19,579: ",
        ),
        (f"student: {SMALL}, assistants: [{THIRD}, {HALF}]", "assistant 2 .resnet8.width=0.5.. has 18,843 "),
        (f"student: {SMALL}, assistants: [{HALF}, {HALF}]", "assistant 2 .* has 18,843 .* 18,843"),
        (f"student: {SMALL}, assistants: [{SMALL}]", "the student, which it is to teach, 5,023"),
        (f"student: {SMALL}, assistants: auto, candidates: [{HALF}, resnet20]", "assistant 1 .resnet20. has"),
    ],
)
def test_assistants_that_do_not_stand_between_are_foreseen(ready, resources, settings, message):
    prepared = ready(f"  - {{use: distill, {QUICK}, {settings}}}\n")
    with pytest.raises(UsageError, match=message):
        foresee(prepared, resources(prepared))
    with pytest.raises(UsageError, match=message):
        estimate(prepared, Path())


def test_a_larger_student_is_warned_of(ready, tmp_path):
    needs = estimate(ready(f"  - {{use: distill, {QUICK}, student: {{use: resnet8}}}}\n"), tmp_path)
    assert "the student has 74,547 parameters and its teacher 19,579" in needs.warnings[0]
    assert not estimate(ready(f"  - {{use: distill, {QUICK}, student: {SMALL}}}\n"), tmp_path).warnings


def test_a_student_that_learnt_nothing_is_warned_of(ready, resources):
    prepared = ready(f"  - {{use: distill, epochs: 1, lr: 1e-9, batch_size: 30, student: {SMALL}}}\n")
    hearing = Hearing()
    step = prepared.recipe.steps[0]
    step.apply(ModelState(prepared.model), resources(prepared, listener=hearing), stage="1-distill")
    assert hearing.warned[0].startswith("the student learnt nothing: it is right on ")


def test_a_model_that_cannot_take_the_images_is_named(ready, tmp_path):
    file = tmp_path / "nets.py"
    file.write_text("from torch import nn\n\ndef flat():\n    return nn.Linear(7, 3)\n")
    auto = f"student: {SMALL}, assistants: auto, candidates: [{THIRD}, '{file}:flat']"
    with pytest.raises(ModelError, match=r"nets\.py:flat: the model cannot take images of 1x12x12"):
        ready(f"  - {{use: distill, {QUICK}, {auto}}}\n")


def test_named_assistants_teach_in_turn(ready, resources):
    narrow = "{use: resnet8, options: {width: 0.4}, loss: attention}"
    chain = f"assistants: [{{use: resnet8, options: {{width: 0.5}}}}, {narrow}]"
    prepared = ready(f"  - {{use: distill, {QUICK.replace('1', '8')}, student: {SMALL}, {chain}}}\n")
    there, step = resources(prepared), prepared.recipe.steps[0]
    step.check(ModelState(prepared.model), there)
    assert step._pupils(step.assistants, prepared.model, there)[1].loss == Attention()
    step.apply(ModelState(prepared.model), there, stage="1-distill")
    record = there.stages.record("1-distill")
    assert [one["use"] for one in record["assistants"]] == ["resnet8", "resnet8"]
    assert not there.stages.checkpoint("1-distill").exists()


def test_auto_takes_the_candidate_halfway(ready, resources):
    candidates = "candidates: [{use: resnet8, options: {width: 0.25}}, resnet8]"
    prepared = ready(
        f"  - {{use: distill, {QUICK}, student: {SMALL}, assistants: auto, probe_epochs: 0.4, {candidates}}}\n"
    )

    hearing = Hearing()
    there, step = resources(prepared, listener=hearing), prepared.recipe.steps[0]
    assert "probe_epochs leave candidates far behind" in step.warnings()[0]
    step.apply(ModelState(prepared.model), there, stage="1-distill")
    record = there.stages.record("1-distill")
    assert set(record["choice"]["accuracies"]) == {"resnet8(width=0.25)", "resnet8"}
    assert record["choice"]["name"] in record["choice"]["accuracies"] and len(record["assistants"]) == 1
    assert "assists: trained alone, " in hearing.said[0] and "learnt from a teacher" in hearing.said[1]


def test_auto_knows_the_zoo_and_needs_no_probe_for_one(ready, resources):
    text = TEXT.replace("use: resnet8", "use: resnet32").replace(", weights: teacher.safetensors", "")
    prepared = ready(f"  - {{use: distill, {QUICK}, student: {SMALL}, assistants: auto}}\n", text)
    there, step = resources(prepared), prepared.recipe.steps[0]
    known = step.known_candidates(ModelState(prepared.model), there)
    assert [(one.use, one.options) for one in known] == [("resnet20", {"width": 0.5, "shortcut": "B"})]
    assistants, choice = step._assistants(ModelState(prepared.model), there, stage="1-distill")
    assert [one.use for one in assistants] == ["resnet20"] and choice is None


def test_an_estimate_counts_the_whole_chain(ready, tmp_path):
    alone = ready(f"  - {{use: distill, epochs: 200, batch_size: 30, student: {SMALL}}}\n")
    chain = ready(
        f"  - {{use: distill, epochs: 200, batch_size: 30, student: {SMALL}, assistants: [{HALF}]}}\n"
    )
    auto = ready(
        f"  - {{use: distill, epochs: 200, batch_size: 30, student: {SMALL}, assistants: auto,\n"
        f"     candidates: [{THIRD}, {HALF}]}}\n"
    )
    seconds = [estimate(prepared, tmp_path).seconds for prepared in (alone, chain, auto)]
    assert 0 < seconds[0] < seconds[1] < seconds[2]


CHAIN = f"""\
  - {{use: distill, epochs: 12, lr: 0.05, batch_size: 30, student: {SMALL},
     loss: {{use: hint, weight: 1, beside: logits}}, assistants: [{{use: resnet8, options: {{width: 0.4}}}}]}}
  - {{use: prune, criterion: l2, schedule: {{use: one_shot, sparsity: 0.2}},
     finetune: {{{QUICK}, lr_ratio: 1, distill: {{}}}}}}
"""


class Stopping(SilentListener):
    def __init__(self, after):
        self.left = after

    def advance(self, steps, _figures):
        self.left -= steps
        if self.left == 0 and steps:
            raise KeyboardInterrupt


def test_a_run_with_a_student_stopped_anywhere_ends_the_same(ready, resources, tmp_path):
    """Teacher → assistant → student by hints, then cut with the teacher looking on; all rebuilt by name."""
    torch.set_num_threads(1)
    prepared = ready(CHAIN)
    there, state = resources(prepared), ModelState(prepared.model)
    there = replace(there, dense=state)
    for stage, step in zip(("1-distill", "2-prune"), prepared.recipe.steps, strict=True):
        state = step.apply(state, there, stage=stage)
    # in the assistant's training, in the student's, in the retraining
    for after, made in ((5, "training/1"), (64, "training/student"), (34, "model")):
        assert not list(tmp_path.glob(f"learn-*/stages/1-distill/{made}"))
        with pytest.raises(Interrupted):
            run(ready(CHAIN), runs=tmp_path, threads=1, listener=Stopping(after))
        assert list(tmp_path.glob(f"learn-*/stages/1-distill/{made}"))
    assert not list(tmp_path.glob("learn-*/stages/2-prune/model"))
    folder = run(ready(CHAIN), runs=tmp_path, threads=1)
    dense, final = (read_model(folder.model(name)) for name in ("dense", "final"))
    assert same(weights(final.model), weights(state.model))
    assert dense.spec == ModelSpec("resnet8", {"width": 0.5, "shortcut": "B"})
    assert final.spec == ModelSpec("resnet8", {"width": 0.25, "shortcut": "B"})
    assert count_params(final.model) < 0.3 * count_params(dense.model)
    manifest = Manifest(folder).read()
    assert manifest["status"] == "finished" and manifest["trained_here"]
    assert {layer["layer"] for layer in manifest["cuts"]} >= {"conv1", "layer3.0.conv1"}
    assert all(layer["before"] <= 16 for layer in manifest["cuts"])  # counted in the student


def test_a_saved_model_that_the_recipe_does_not_name_is_refused(ready, resources, data):
    prepared = ready(f"  - {{use: distill, {QUICK}, student: {SMALL}}}\n")
    there = resources(prepared)
    folder = there.stages.folder.stage("1-distill")
    other = load_model("resnet8", classes=3, image_shape=data.image_shape)
    save_model(
        folder / "model",
        other,
        structure=Structure(),
        spec=ModelSpec("resnet8"),
        classes=3,
        image_shape=data.image_shape,
    )
    with pytest.raises(CorruptArtifact, match="resnet8 was saved with other options than the recipe names"):
        there.stages.state("1-distill")


def test_a_quantized_model_learns_from_the_dense_one(ready, resources):
    prepared = ready(
        "  - {use: quantize, train: never}\n  - {use: distill, epochs: 1, lr: 0.01, batch_size: 30}\n"
    )
    dense = ModelState(prepared.model)
    there = replace(resources(prepared), dense=dense)
    quantize, learn = prepared.recipe.steps
    state = quantize.apply(dense, there, stage="1-quantize")
    after = learn.apply(state, there, stage="2-distill")
    assert after.quantization == state.quantization is not None
    assert not same(weights(state.model), weights(after.model))
    again = learn.apply(state, there, stage="2-distill")
    assert same(weights(again.model), weights(after.model)) and again.quantization == after.quantization
