"""The step `quantize`: after calibration, under a budget, with training; with what comes before and after it."""

import copy
import json
from collections import OrderedDict
from dataclasses import replace

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from kezuri.artifact.folder import RunFolder
from kezuri.artifact.journal import Journal
from kezuri.artifact.manifest import Manifest
from kezuri.core.errors import GoalUnreachable, Interrupted, KezuriError, RecipeError, UnknownName, UsageError
from kezuri.core.goal import Goal
from kezuri.data import from_tensors
from kezuri.distillation.tap import features
from kezuri.measure.macs import count_params
from kezuri.quantization.budget import Budget
from kezuri.quantization.fake import WeightQuant, quantizers_of
from kezuri.quantization.observers.mse import Mse
from kezuri.quantization.roundings.gptq import Gptq
from kezuri.recipe.check import estimate
from kezuri.recipe.document import parse
from kezuri.recipe.foresight import foresee
from kezuri.recipe.listener import SilentListener
from kezuri.recipe.prepare import prepare
from kezuri.recipe.recipe import recipe_from, recipe_from_json
from kezuri.recipe.requantizing import in_floats, quantized_before
from kezuri.recipe.run import resources_of, run
from kezuri.recipe.step import ModelState
from kezuri.recipe.steps.quantize import Quantize
from kezuri.train import Training, evaluate, fit

TEXT = """\
name: small
model: {use: <in memory>}
data: {use: <in memory>}
goal: {accuracy: -0.9}
steps:
"""
TUNED = "finetune: {epochs: 1, lr: 0.02, batch_size: 30}"
HARD = "bits: 2, edge_bits: 2, activation_bits: 2, weight_observer: min_max, observer: min_max"
ALONE = f"{HARD}, spared: [second, third, head], keep: {{accuracy: 0}}"  # one layer is left
LAYERS = ["first", "second", "third", "head"]
MASKED = (
    "  - {use: prune, criterion: l2, granularity: weight, schedule: {use: one_shot, sparsity: 0.5},\n"
    "     finetune: {epochs: 1, lr: 0.02, batch_size: 30}}\n"
)
CUT = MASKED.replace("granularity: weight, ", "").replace("0.5", "0.2")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 3
    images = torch.randn(3, 1, 8, 8, generator=draw)[labels] + torch.randn(240, 1, 8, 8, generator=draw)
    return from_tensors((images[:180], labels[:180]), (images[180:], labels[180:]), validation=60)


@pytest.fixture(scope="module")
def dense(data):
    """Trained."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            OrderedDict(
                first=nn.Conv2d(1, 8, 3, bias=False),
                norm=nn.BatchNorm2d(8),
                relu=nn.ReLU(),
                second=nn.Conv2d(8, 8, 3),
                relu2=nn.ReLU(),
                flat=nn.Flatten(),
                third=nn.Linear(128, 16),
                relu3=nn.ReLU(),
                head=nn.Linear(16, 3),
            )
        )
    fit(model, data, Training(epochs=8, lr=0.05, batch_size=30), seed=0, device="cpu")
    return model.eval()


@pytest.fixture
def ready(data, dense):
    """A recipe with these steps, prepared."""

    def ready(steps):
        return prepare(recipe_from(parse(TEXT + steps)), model=copy.deepcopy(dense), data=data, device="cpu")

    return ready


@pytest.fixture
def apply(ready, tmp_path):
    """The state after a recipe's last step alone, and what the run's folder has of it."""

    def apply(step, name="run", listener=None, goal=None):
        prepared = ready(f"  - {{use: quantize, {step}}}\n")
        resources = resources_of(prepared, RunFolder(tmp_path / name), listener)
        state = ModelState(prepared.model)
        resources = replace(resources, dense=state, goal=goal or resources.goal)
        after = prepared.recipe.steps[0].apply(state, resources, stage="1-quantize")
        return after, resources

    return apply


class Hearing(SilentListener):
    def __init__(self):
        self.said, self.warned = [], []

    def say(self, text):
        self.said.append(text)

    def warn(self, text):
        self.warned.append(text)


class Stopping(SilentListener):
    """Stops after so many steps of anything."""

    def __init__(self, after):
        self.left = after

    def advance(self, steps, _figures):
        self.left -= steps
        if self.left == 0 and steps:
            raise KeyboardInterrupt


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def rows(resources, metric):
    return [row for row in resources.stages.journal.read() if row.metric == metric]


def accuracy(state, resources):
    return evaluate(state.model, resources.data.validation, device="cpu").accuracy


def integers_of(path):
    """Every weight of a file as integers, by its shape's size."""
    graph = onnx.load(path).graph
    arrays = [numpy_helper.to_array(one) for one in graph.initializer]
    return [array for array in arrays if array.dtype == "int8" and array.ndim >= 2]


def test_a_recipe_names_all_of_it_and_keeps_every_setting():
    text = TEXT + (
        "  - {use: quantize, bits: 8, observer: {use: percentile, percent: 99.9}, rounding: gptq, train: always,\n"
        "     ranges: learned, finetune: {distill: {loss: attention}}, keep: {accuracy: -0.02},\n"
        "     budget: {size: 0.15, bits: [8, 4, 2], sparsities: [0, 0.5]}}\n"
    )
    recipe = recipe_from(parse(text))
    step = recipe.steps[0]
    assert step.budget == Budget(size=0.15, bits=(8, 4, 2), sparsities=(0.0, 0.5))
    assert step.keep == Goal(accuracy=-0.02) and step.rounding == Gptq() and step.ranges == "learned"
    assert step.method().weight_observer == Mse()
    assert recipe_from_json(json.loads(json.dumps(recipe.to_json())), "recipe.json").steps[0] == step


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("bits: 9", "bits: bits are from 2 to 8, got 9"),
        ("train: maybe", "expected 'never', 'if_needed' or 'always', got 'maybe'"),
        ("ranges: moved", "expected .* got 'moved'"),
        ("images: 0", "calibration needs an image at least, got images=0"),
        ("replaced: {hardswish: relu}, train: never", "replaced activations need training"),
        ("observer: max", "no observer named 'max'"),
        ("layer_bits: {conv1: 1}", "bits are from 2 to 8, got 1"),
        ("budget: {}", "a budget is on one of size, macs, latency, .* got none"),
        ("budget: {size: 0.1, macs: 0.5}", "got size and macs"),
        ("budget: {latency: 0.5, bits: [4]}", "in 8 bits or in floats"),
        ("budget: {macs: 0.5}", "fewer bits are no fewer macs: give sparsities"),
        ("budget: {size: -1}", "must be above 0, got -1"),
        ("budget: {size: 0.1, bits: [16]}", "bits are from 2 to 8, got .16."),
        ("budget: {size: 0.1, sparsities: [1]}", r"sparsities are fractions in \[0, 1\)"),
        ("budget: {size: 0.1, bit: [2]}", "has no setting 'bit' .* did you mean 'bits'"),
        ("budget: {size: 0.1}, bits: 4", "bits 4 and a budget cannot both be"),
        ("budget: {size: 0.1}, layer_bits: {conv1: 4}", "layer_bits and a budget cannot both be"),
        ("epochs: 3", "has no setting 'epochs'"),
    ],
)
def test_wrong_settings_are_refused_with_their_line(settings, message):
    with pytest.raises((RecipeError, UnknownName), match=rf":6: .*{message}"):
        recipe_from(parse(TEXT + f"  - {{use: quantize, {settings}}}\n"))


def test_calibration_alone_where_it_holds_the_floor(apply, data):
    after, resources = apply("images: 64")
    record = resources.stages.record("1-quantize")
    assert record["how"] == "after calibration" and record["spared"] == [] and record["allocation"] is None
    assert record["accuracy"] == accuracy(after, resources) >= record["floor"]
    assert set(record["bits"].values()) == {8} and [*record["bits"]] == LAYERS
    assert rows(resources, "integer_share")[0].value == 1
    assert {row.conditions["layer"]: row.value for row in rows(resources, "bits")} == record["bits"]
    again, _ = apply("images: 64")  # the finished stage, read back
    assert again.quantization == after.quantization and same(again.model, after.model)
    images = data.validation.images[:8]
    assert torch.equal(again.model.eval()(images), after.model.eval()(images))
    assert not resources.stages.folder.allocation.exists()


def test_layers_stay_in_floats_where_the_floor_asks_for_it(apply):
    hearing = Hearing()
    low = f"{HARD}, train: never, keep: {{accuracy: 0}}"
    after, resources = apply(low, listener=hearing)
    record = resources.stages.record("1-quantize")
    assert record["how"] == "some layers in floats" and record["spared"]
    assert record["accuracy"] == accuracy(after, resources) >= record["floor"]
    assert after.quantization.spared == tuple(record["spared"])
    assert not set(record["spared"]) & set(record["bits"])
    moments = [row.conditions["moment"] for row in rows(resources, "accuracy")]
    assert moments == ["after calibration", "some layers in floats"]
    assert any("left in floats for the accuracy" in line for line in hearing.said)
    assert not hearing.warned
    assert same(apply(low)[0].model, after.model)


def test_a_floor_that_nothing_holds_is_said(apply):
    hearing = Hearing()
    after, resources = apply(f"{ALONE}, train: never", listener=hearing)
    record = resources.stages.record("1-quantize")
    told = {row.conditions["moment"]: row.value for row in rows(resources, "accuracy")}
    assert [*told] == ["after calibration", "some layers in floats"]
    assert record["accuracy"] == told[record["how"]] == max(told.values()) < record["floor"]
    assert "is not kept in integers" in hearing.warned[0] and "is below the floor" in hearing.warned[1]
    assert accuracy(after, resources) == record["accuracy"]


def test_training_where_no_choice_of_layers_holds_the_floor(apply):
    after, resources = apply(f"{ALONE}, ranges: learned, {TUNED}")
    record = resources.stages.record("1-quantize")
    moments = [row.conditions["moment"] for row in rows(resources, "accuracy")]
    assert moments == ["after calibration", "some layers in floats", "after training"]
    assert record["accuracy"] == max(row.value for row in rows(resources, "accuracy"))
    assert accuracy(after, resources) == record["accuracy"]


@pytest.mark.parametrize("ranges", ["fixed", "moving", "learned"])
def test_training_always_with_each_kind_of_range(apply, ranges):
    step = f"{HARD}, ranges: {ranges}, finetune: {{epochs: 4, lr: 0.02, batch_size: 30}}"
    after, resources = apply(f"{step}, train: always")
    record = resources.stages.record("1-quantize")
    told = {row.conditions["moment"]: row.value for row in rows(resources, "accuracy")}
    assert record["how"] == "after training" and told["after training"] > told["after calibration"]
    assert record["accuracy"] == accuracy(after, resources)
    calibrated, _ = apply(f"{step}, train: never", name="plain")
    scales, before = (
        {
            name: one.scale.clone()
            for name, one in quantizers_of(state.model).items()
            if not isinstance(one, WeightQuant)
        }
        for state in (after, calibrated)
    )
    moved = [name for name in scales if not torch.equal(scales[name], before[name])]
    assert bool(moved) == (ranges != "fixed")
    again, _ = apply(f"{step}, train: always")  # read back
    assert same(again.model, after.model)
    assert {one.ranges for one in quantizers_of(again.model).values()} == {
        one.ranges for one in quantizers_of(after.model).values()
    }


@pytest.mark.parametrize("frozen", [True, False])
def test_norms_keep_their_statistics_where_asked(apply, frozen):
    tuned = f"finetune: {{epochs: 1, lr: 0.02, batch_size: 30, freeze_norms: {str(frozen).lower()}}}"
    after, _ = apply(f"{HARD}, ranges: learned, train: always, {tuned}")
    before, _ = apply(f"{HARD}, train: never", name="plain")
    statistics = [name for name, _ in before.model.named_buffers() if "running" in name]
    assert statistics
    for name in statistics:
        assert torch.equal(after.model.get_buffer(name), before.model.get_buffer(name)) == frozen


def test_training_that_ruins_the_model_is_not_kept(apply):
    after, resources = apply("train: always, finetune: {epochs: 1, lr: 30, batch_size: 30}")
    record = resources.stages.record("1-quantize")
    told = {row.conditions["moment"]: row.value for row in rows(resources, "accuracy")}
    assert record["accuracy"] == told[record["how"]] == max(told.values()) == accuracy(after, resources)


def test_the_dense_model_teaches_the_quantized_one(apply):
    plain, _ = apply(f"bits: 3, train: always, {TUNED}")
    taught, resources = apply(
        "bits: 3, train: always, finetune: {epochs: 1, lr: 0.02, batch_size: 30, distill: {loss: attention}}",
        name="taught",
    )
    assert not same(plain.model, taught.model)
    assert not quantizers_of(resources.dense.model)


STILL = "lr: 1e-9, batch_size: 30, optimizer: {use: sgd, weight_decay: 1e+8, momentum: 0, nesterov: false}"  # decay alone moves


@pytest.mark.parametrize(
    "step",
    [
        f"{{use: train, epochs: 1, {STILL}}}",
        f"{{use: distill, epochs: 1, {STILL}}}",
        f"{{use: fixmatch, epochs: 1, {STILL}, labels_per_class: 5, mu: 2}}",
    ],
)
def test_learned_scales_do_not_decay_in_any_step_that_trains(apply, ready, step):
    before, resources = apply("images: 64, ranges: learned, train: never")
    after = ready(f"  - {step}\n").recipe.steps[0].apply(before, resources, stage="2-after")
    weights = dict(before.model.named_parameters())
    for name, weight in after.model.named_parameters():
        share = float(weight.detach().norm() / weights[name].detach().norm())
        assert share == pytest.approx(1, abs=1e-3) if name.endswith("scale") else share < 0.95, name


@pytest.mark.parametrize(
    "steps",
    [
        "  - {use: quantize, images: 64}\n  - {use: distill, epochs: 1, lr: 0.01, batch_size: 30, loss: HINT}\n",
        "  - {use: quantize, images: 64, train: always,\n"
        "     finetune: {epochs: 1, lr: 0.01, batch_size: 30, distill: {loss: HINT}}}\n",
    ],
)
def test_modules_of_a_quantized_model_are_tapped_by_name(ready, tmp_path, steps):
    hint = "{use: hint, taps: {relu2: relu2}, beside: logits}"
    prepared = ready(steps.replace("HINT", hint))
    folder = run(prepared, runs=tmp_path, threads=1)
    assert Manifest(folder).read()["status"] == "finished"
    resources = resources_of(prepared, folder)
    loaded = resources.stages.state("1-quantize").model
    assert features(loaded, resources.example)["relu2"] == (8, 4, 4)


def test_bits_are_chosen_under_a_budget_and_the_table_is_kept(apply):
    hearing = Hearing()
    after, resources = apply("budget: {size: 0.16, bits: [8, 4, 2]}, images: 64", listener=hearing)
    record = resources.stages.record("1-quantize")
    chosen = record["allocation"]["chosen"]
    assert chosen["size"] <= record["allocation"]["limit"]
    assert record["allocation"]["limit"] == pytest.approx(0.16 * record["allocation"]["whole"]["size"])
    assert record["bits"] == {layer: option["bits"] for layer, option in chosen["options"].items()}
    assert len(set(record["bits"].values())) > 1 and record["bits"] == dict(after.quantization.layer_bits)
    packed = [row for row in rows(resources, "size") if row.conditions["format"] == "packed"]
    assert packed[0].value == chosen["size"] and packed[0].unit == "bytes"
    content = json.loads(resources.stages.folder.allocation.read_text())
    assert content["metric"] == "size" and content["chosen"] == chosen and content["stage"] == "1-quantize"
    costs = [point["size"] for point in content["front"]]
    assert costs == sorted(costs) and {point["name"] for point in content["uniform"]} == {
        "8 bits",
        "4 bits",
        "2 bits",
    }
    assert any(" bits: size is " in line for line in hearing.said)
    table = json.loads((resources.stages.folder.stage("1-quantize") / "sensitivity.json").read_text())
    assert len(table["entries"]) == 3 * len(record["bits"])


def test_layers_stay_in_floats_under_a_budget_of_time_as_was_measured(apply):
    """How fast which choice is differs from run to run; that the choice follows from it does not."""
    hearing = Hearing()
    after, resources = apply("budget: {latency: 5}, images: 64, train: never", listener=hearing)
    record = resources.stages.record("1-quantize")
    found, chosen = record["allocation"], record["allocation"]["chosen"]
    floats = [layer for layer, option in chosen["options"].items() if option["bits"] == 32]
    assert [*after.quantization.spared] == floats and set(record["bits"]) == chosen["options"].keys() - set(
        floats
    )
    assert chosen["latency"] <= found["limit"] == 5
    tried = {(one["floats"], one["loss"]): one["latency"] for one in found["timed"]}
    assert tried[len(floats), chosen["loss"]] == chosen["latency"]
    content = json.loads(resources.stages.folder.allocation.read_text())
    assert content["metric"] == "latency" and content["timed"] == found["timed"]
    assert any(
        f"{len(floats)} of {len(chosen['options'])} layers stay in floats" in line for line in hearing.said
    )
    assert (resources.stages.folder.stage("1-quantize") / "sensitivity.latencies.json").exists()


def test_no_layer_is_left_in_floats_under_a_budget(apply):
    hearing = Hearing()
    step = "budget: {size: 0.1, bits: [2]}, activation_bits: 2, train: never, keep: {accuracy: 0}, images: 64"
    _, resources = apply(step, listener=hearing)
    record = resources.stages.record("1-quantize")
    assert record["spared"] == [] and set(record["bits"].values()) == {2}
    assert record["accuracy"] < record["floor"] and "below the floor" in hearing.warned[0]


def test_a_budget_out_of_reach_is_refused_before_anything_is_measured(apply, tmp_path):
    with pytest.raises(GoalUnreachable, match="no choice of options brings size down to"):
        apply("budget: {size: 0.01}")
    assert not (tmp_path / "run" / "stages" / "1-quantize" / "sensitivity.json").exists()


def test_zeros_may_be_chosen_and_stay_through_training(apply):
    step = f"budget: {{macs: 0.6, bits: [8], sparsities: [0, 0.5]}}, train: always, images: 64, {TUNED}"
    after, resources = apply(step)
    record = resources.stages.record("1-quantize")
    thinned = [
        name for name, one in record["allocation"]["chosen"]["options"].items() if one["sparsity"] == 0.5
    ]
    assert thinned and set(after.masks) == {f"{name}.weight" for name in thinned}
    assert record["allocation"]["chosen"]["macs"] <= record["allocation"]["limit"]
    weights = dict(after.model.named_parameters())
    for name, kept in after.masks.items():
        assert not weights[name][~kept].any() and int(kept.sum()) == kept.numel() - round(kept.numel() / 2)
    assert any(bool(parameter.any()) for parameter in resources.dense.model.parameters())


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_masks_survive_in_the_file(ready, tmp_path, rounding):
    steps = (
        f"{MASKED}  - {{use: quantize, bits: 4, rounding: {rounding}, train: always, images: 64, {TUNED}}}\n"
    )
    prepared = ready(steps)
    folder = run(prepared, runs=tmp_path, threads=1)
    state = resources_of(prepared, folder).stages.state_in(folder.model("final"))
    weights = dict(state.model.named_parameters())
    assert state.masks.sparsity == pytest.approx(0.5, abs=0.01)
    for name, kept in state.masks.items():
        assert not weights[name][~kept].any()
    zeros = sum(int((array == 0).sum()) for array in integers_of(folder.model("final") / "model.onnx"))
    assert zeros >= state.masks.removed
    shares = [row for row in Journal(folder.measurements).read() if row.metric == "time_share"]
    assert sum(row.value for row in shares) == pytest.approx(1)
    assert "QLinearConv" in {
        row.conditions["kernel"] for row in shares if row.conditions["group"] == "integers"
    }
    told = [row for row in Journal(folder.measurements).read() if row.metric == "sparsity"]
    final = {row.conditions["of"]: row.value for row in told if row.conditions["model"] == "final"}
    assert final["weights"] == pytest.approx(0.5, abs=0.01)
    assert Manifest(folder).read()["status"] == "finished"


CHAIN = (
    CUT
    + "  - {use: quantize, budget: {size: 0.2, bits: [8, 4]}, ranges: learned, train: always, images: 64,\n"
    + "     finetune: {epochs: 3, lr: 0.02, batch_size: 30, distill: {}}}\n"
    + "  - {use: train, epochs: 1, lr: 0.01, batch_size: 30}\n"
)


def test_cut_quantize_and_train_stopped_anywhere_end_the_same(ready, tmp_path):
    """Killed in the retraining after the cut, while measuring, in the training of integers and once more."""
    whole = run(ready(CHAIN), runs=tmp_path / "whole", threads=1)
    for after in (2, 8, 8, 5):
        with pytest.raises(Interrupted):
            run(ready(CHAIN), runs=tmp_path / "parts", threads=1, listener=Stopping(after))
    parts = run(ready(CHAIN), runs=tmp_path / "parts", threads=1)
    prepared = ready(CHAIN)
    one, other = (
        resources_of(prepared, folder).stages.state_in(folder.model("final")) for folder in (whole, parts)
    )
    assert same(one.model, other.model)
    assert one.quantization == other.quantization and set(one.quantization.layer_bits.values()) <= {4, 8}
    files = [(folder.model("final") / "model.onnx").read_bytes() for folder in (whole, parts)]
    assert files[0] == files[1]
    assert whole.allocation.read_bytes() == parts.allocation.read_bytes()
    calibrated = resources_of(prepared, whole).stages.state("2-quantize")
    assert not same(calibrated.model, one.model)  # the last training went on with quantizers on
    assert all(quantizer.on for quantizer in quantizers_of(one.model).values())
    layers = {m.conditions.get("layer") for m in Journal(whole.measurements).read() if m.metric == "bits"}
    assert layers == set(one.quantization.layer_bits)


class Counting(SilentListener):
    """How many losses of a table were measured."""

    def __init__(self):
        self.what, self.count = "", 0

    def start(self, what, total, done):
        self.what = what

    def advance(self, steps, _figures):
        self.count += steps if self.what == "sensitivity" else 0


def test_a_killed_measuring_goes_on(apply):
    step = "budget: {size: 0.16, bits: [8, 4, 2]}, images: 64"
    with pytest.raises(KeyboardInterrupt):
        apply(step, listener=Stopping(7))
    counting = Counting()
    after, resources = apply(step, listener=counting)
    assert counting.count == 12 - 7
    whole, _ = apply(step, name="whole")
    assert same(whole.model, after.model) and resources.stages.record("1-quantize")["how"]


QUANTIZE = "  - {use: quantize}\n"


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            "  - {use: quantize, equalize: true, per_channel: false}\n" + CUT,
            r"step 2 \(prune\) cannot prune what step 1 \(quantize\) has quantized with equalize",
        ),
        (
            "  - {use: quantize, replaced: {relu6: relu}}\n" + MASKED,
            r"step 2 \(prune\) cannot prune what step 1 \(quantize\) has quantized with replaced",
        ),
        (QUANTIZE * 2, r"step 2 \(quantize\) quantizes again what step 1 \(quantize\) has quantized"),
        (MASKED + CUT + QUANTIZE, r"step 2 \(prune\) cannot cut what step 1 \(prune\) has masked"),
        ("  - {use: quantize, spared: [conv9]}\n", "no layer to quantize named 'conv9'"),
        ("  - {use: quantize, layer_bits: {conv9: 4}}\n", "no layer to quantize named 'conv9'"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(ready, tmp_path, steps, message):
    prepared = ready(steps)
    with pytest.raises(KezuriError, match=message):
        run(prepared, runs=tmp_path)
    with pytest.raises(KezuriError, match=message):
        foresee(prepared, resources_of(prepared, RunFolder(tmp_path / "other")))
    with pytest.raises(KezuriError, match=message):
        estimate(prepared, tmp_path, trace=True)


def test_a_floor_above_the_start_is_refused(apply):
    with pytest.raises(GoalUnreachable, match="the model starts at"):
        apply("keep: {accuracy: 0.999}")


def test_a_quantized_model_is_not_quantized_again(apply, ready, tmp_path):
    after, resources = apply("images: 64")
    with pytest.raises(UsageError, match="quantized already"):
        Quantize().apply(after, resources, stage="2-quantize")


def test_time_is_estimated_and_unwise_settings_are_named(ready, tmp_path):
    def seconds(settings):
        return estimate(ready(f"  - {{use: quantize, {settings}}}\n"), tmp_path).seconds

    assert seconds("train: never") < seconds("train: always, finetune: {epochs: 300}")
    assert Quantize(bits=3, train="never").warnings()[0].startswith("3 bits without training lose")
    assert not Quantize(bits=3).warnings() and not Quantize(train="never").warnings()


@pytest.mark.parametrize(
    ("setting", "runtime", "whole"),
    [("", "onnxruntime", False), ("", "openvino", True), ("swish: true, ", "openvino", False)],
)
def test_silu_is_a_product_where_the_runtime_gains_by_it(setting, runtime, whole, data, tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 3))
    step = f"  - {{use: quantize, {setting}train: never, keep: {{accuracy: 0}}}}\n"
    prepared = prepare(recipe_from(parse(TEXT + step)), model=model, data=data, device="cpu")
    resources = resources_of(prepared, RunFolder(tmp_path / "run"), None)
    resources = replace(resources, goal=replace(resources.goal, runtime=runtime))
    state = prepared.recipe.steps[0].apply(ModelState(prepared.model), resources, stage="1-quantize")
    assert ("aten.silu" in state.model.code) == whole
    assert state.quantization.swish != whole


ROUNDED = "  - {use: quantize, images: 64, train: never, keep: {accuracy: 0}}\n"


@pytest.mark.parametrize("cut", [CUT, MASKED])
def test_what_is_quantized_is_pruned_in_floats_and_rounded_again(ready, tmp_path, cut):
    prepared = ready(ROUNDED + cut)
    folder = run(prepared, runs=tmp_path)
    stages = resources_of(prepared, folder).stages
    state, before = stages.state_in(folder.model("final")), stages.state("1-quantize")
    assert state.quantization == before.quantization and quantizers_of(state.model)
    weights = integers_of(folder.model("final") / "model.onnx")
    if cut is CUT:
        assert state.structure.kept
        assert sum(each.numel() for each in state.model.parameters()) < 0.9 * count_params(prepared.model)
    else:
        assert state.masks is not None and state.masks.sparsity == pytest.approx(0.5, abs=0.01)
        assert sum(int((each == 0).sum()) for each in weights) >= state.masks.removed


def test_the_floats_beneath_are_the_network_without_its_quantizers(apply, ready):
    state, resources = apply(
        "images: 64, train: always, bits: 3, finetune: {epochs: 1, lr: 0.02, batch_size: 30}"
    )
    found = in_floats(state, resources)
    assert found.quantization is None and isinstance(found.model, nn.Sequential)
    for quantizer in quantizers_of(state.model).values():
        quantizer.on = False
    images = resources.data.validation.images
    with torch.no_grad():
        torch.testing.assert_close(
            found.model.eval()(images), state.model.eval()(images), atol=1e-5, rtol=1e-5
        )


def test_pruning_what_is_quantized_goes_on_after_a_kill(ready, tmp_path):
    steps = ROUNDED.replace("train: never", f"train: always, {TUNED}") + CUT
    whole = run(ready(steps), runs=tmp_path / "whole")
    for after in (4, 10, 20):  # while it is quantized, while it is cut, while it is quantized again
        with pytest.raises(Interrupted):
            run(ready(steps), runs=tmp_path / "killed", listener=Stopping(after))
    again = run(ready(steps), runs=tmp_path / "killed")
    assert (again.model("final") / "model.onnx").read_bytes() == (
        whole.model("final") / "model.onnx"
    ).read_bytes()


def test_quantizing_again_is_in_the_estimate_and_leaves_gone_layers_be(ready, tmp_path):
    tuned = "  - {use: quantize, train: always, finetune: {epochs: 300}}\n"
    first, second = ready(tuned + CUT), ready(CUT + tuned)
    assert estimate(first, tmp_path).seconds > 1.1 * estimate(second, tmp_path).seconds
    assert [quantize is not None for _, quantize in quantized_before(first.recipe)] == [False, True]
    assert [quantize for _, quantize in quantized_before(second.recipe)] == [None, None]


def test_a_run_is_named_as_resume_will_read_it(ready):
    """Epochs of 1 given from Python come back from the run's folder as 1.0."""
    prepared = ready("  - {use: quantize}\n")
    (step,) = prepared.recipe.steps

    def name(epochs):
        steps = (replace(step, finetune=replace(step.finetune, epochs=epochs)),)
        return replace(prepared, recipe=replace(prepared.recipe, steps=steps)).run_name

    assert name(1) == name(1.0) != name(2.0)
