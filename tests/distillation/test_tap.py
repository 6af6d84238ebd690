import copy

import pytest
import torch
from torch import nn

from kezuri.core.errors import UsageError
from kezuri.distillation.tap import Pair, features, matched, same_positions, tapped
from kezuri.model.load import load_model
from kezuri.model.program import as_program
from kezuri.quantization.network import with_quantizers
from kezuri.quantization.scheme import Scheme

IMAGES = torch.zeros(2, 1, 8, 8)
OURS = {"a": (4, 8, 8), "b": (4, 8, 8), "c": (8, 4, 4), "d": (7, 3)}
THEIRS = {"A": (6, 8, 8), "C": (12, 4, 4), "D": (7, 9)}


def test_features_are_maps_and_sequences_by_name_in_order(student):
    student.train()
    before = copy.deepcopy(student.state_dict())
    assert features(student, IMAGES) == {
        "first.0": (4, 8, 8),
        "first.1": (4, 8, 8),
        "first.2": (4, 8, 8),
        "first": (4, 8, 8),
        "second.0": (8, 4, 4),
        "second.1": (8, 4, 4),
        "second": (8, 4, 4),
    }
    assert student.training and not student.first[1]._forward_hooks
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())
    tokens = nn.Sequential(nn.Flatten(2), nn.Linear(64, 5), nn.Conv1d(1, 1, 1), nn.Flatten(), nn.Linear(5, 3))
    assert features(tokens, IMAGES) == {}  # one token is no sequence


def test_features_of_a_program_are_those_of_its_modules_and_its_operations(student):
    program = copy.deepcopy(as_program(student, (IMAGES,)))
    found = features(program, IMAGES)
    assert found.items() >= features(student, IMAGES).items()
    others = {name: size for name, size in found.items() if name not in features(student, IMAGES)}
    assert list(others.values()) == [(4, 8, 8)] * 3 + [(8, 4, 4)] * 2
    assert next(iter(others)).startswith("conv2d") and list(others)[-1].startswith("relu")


class Reuses(nn.Module):
    """One activation for two layers, under the name that torch.export gives the first of them."""

    def __init__(self):
        super().__init__()
        self.one, self.other, self.relu = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 5, 3), nn.ReLU()
        self.tokens = nn.Flatten(2)

    def forward(self, x):
        return self.tokens(self.relu(self.other(self.relu(self.one(x))))).mean(2)


def test_a_module_called_twice_counts_as_its_last_call_and_may_end_with_a_view():
    model = Reuses()
    found = features(as_program(model, (IMAGES,)), IMAGES)
    assert found["relu"] == features(model, IMAGES)["relu"] == (5, 4, 4)
    assert found["tokens"] == features(model, IMAGES)["tokens"] == (5, 16)


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v1", "vit_tiny"])
@pytest.mark.parametrize("ranges", ["moving", "learned"])
def test_a_quantized_network_has_the_features_of_its_modules(name, ranges):
    images = torch.rand(2, 3, 32, 32)
    model = load_model(name, classes=10, image_shape=(3, 32, 32)).eval()
    network = with_quantizers(model, (images,), Scheme(ranges=ranges)).network
    plain, found = features(model, images), features(copy.deepcopy(network), images)
    there = plain.keys() & found.keys()
    assert len(there) > 0.8 * len(plain) and all(plain[name] == found[name] for name in there)
    with tapped(model, sorted(there)) as ours, tapped(network.eval(), sorted(there)) as theirs:
        model(images), network(images)  # all quantizers are off
        for name, one, other in zip(sorted(there), ours.take(), theirs.take(), strict=True):
            assert torch.allclose(one, other, atol=1e-4), name


@pytest.mark.parametrize("name", ["resnet8", "vit_tiny"])
def test_models_of_the_zoo_match_the_same_as_modules_and_as_programs(name):
    images = torch.zeros(2, 3, 32, 32)
    options = {"classes": 10, "image_shape": (3, 32, 32)}
    model = load_model(name, **options).eval()
    found = features(model, images)
    pairs = matched(found, found, None)
    program = features(as_program(model, (images,)), images)
    assert len(pairs) == (3 if name == "resnet8" else 2)
    sizes = [pair.student_size for pair in pairs]
    assert sizes == [pair.student_size for pair in matched(program, program, None)]


def test_stages_match_by_resolution_or_by_order():
    pairs = matched(OURS, THEIRS, None)
    assert pairs == (
        Pair("b", "A", (4, 8, 8), (6, 8, 8)),
        Pair("c", "C", (8, 4, 4), (12, 4, 4)),
        Pair("d", "D", (7, 3), (7, 9)),
    )
    halves = {"A": (6, 6, 6), "C": (12, 3, 3)}
    assert [
        (pair.student, pair.teacher) for pair in matched({"b": (4, 8, 8), "c": (8, 4, 4)}, halves, None)
    ] == [
        ("b", "A"),
        ("c", "C"),
    ]
    with pytest.raises(UsageError, match=r"no stages in common: .* sizes 8x8, 4x4, 7, the teacher's of 5x5;"):
        matched(OURS, {"x": (3, 5, 5)}, None)
    with pytest.raises(UsageError, match=r"no stages in common: .* sizes none, the teacher's of 8x8"):
        matched({}, {"x": (3, 8, 8)}, None)


def test_named_ones_are_found_or_refused_with_what_there_is():
    assert matched(OURS, THEIRS, {"c": "A"}) == (Pair("c", "A", (8, 4, 4), (6, 8, 8)),)
    found = matched({"l1": (1, 4, 4), "l2": (1, 2, 2)}, {"L1": (2, 4, 4), "L2": (2, 2, 2)}, {"l*": "L*"})
    assert [(pair.student, pair.teacher) for pair in found] == [("l1", "L1"), ("l2", "L2")]
    with pytest.raises(UsageError, match="taps: no feature of the teacher is named 'layer9'; near: layer1"):
        matched(OURS, {"layer1": (1, 2, 2)}, {"a": "layer9"})
    with pytest.raises(UsageError, match="'zzz'; near: a, b, c, d"):
        matched(OURS, THEIRS, {"zzz": "A"})
    with pytest.raises(UsageError, match="it has none"):
        matched({}, THEIRS, {"a": "A"})
    with pytest.raises(
        UsageError, match=r"'\[ab\]' fits 2 features of the student, 'A' 1 of the teacher: a, b; A"
    ):
        matched(OURS, THEIRS, {"[ab]": "A"})
    with pytest.raises(UsageError, match=r"'a' of the student has the size \(4, 8, 8\) and 'D'"):
        matched(OURS, THEIRS, {"a": "D"})
    with pytest.raises(UsageError, match="sequences of one length"):
        matched({"d": (5, 3)}, THEIRS, {"d": "D"})


@pytest.mark.parametrize("as_graph", [False, True])
def test_tapped_gathers_in_training_and_leaves_no_trace(student, as_graph):
    model = as_program(student, (IMAGES,)) if as_graph else student
    model.train()
    code = model.code if as_graph else None
    names = list(features(model, IMAGES))
    with tapped(model, [names[-1], names[0], names[-1]]) as tap:
        with torch.inference_mode():
            model(IMAGES)
        images = torch.randn(3, 1, 8, 8)
        model(images)
        one, two, three = tap.take()
        assert one.shape == (3, 8, 4, 4) and two.shape == (3, 4, 8, 8) and one is not two
        assert torch.equal(one, three) and one.requires_grad
        expected = student.first[0](images)
        assert torch.allclose(two, expected)
        with pytest.raises(KeyError):
            tap.take()
    assert not any(module._forward_hooks for module in model.modules())
    if as_graph:
        assert model.code == code and not any("probe" in name for name, _ in model.named_modules())


def test_a_tapped_program_answers_and_learns_as_before(student):
    program = as_program(student, (IMAGES,)).eval()
    images = torch.randn(3, 1, 8, 8)
    expected = program(images)
    with tapped(program, list(features(program, images))) as tap:
        assert torch.equal(program(images), expected)
        torch.stack([one.square().sum() for one in tap.take()]).sum().backward()
    assert all(one.grad is not None for name, one in program.named_parameters() if "last" not in name)


def test_the_larger_map_is_averaged():
    one, other = torch.randn(2, 3, 8, 4), torch.randn(2, 5, 4, 8)
    ours, theirs = same_positions(one, other)
    assert ours.shape == (2, 3, 4, 4) and theirs.shape == (2, 5, 4, 4)
    assert torch.allclose(ours, one.view(2, 3, 4, 2, 4).mean(3))
    assert same_positions(one, one)[0] is one
    tokens = torch.randn(2, 5, 3)
    assert same_positions(tokens, tokens)[0] is tokens
