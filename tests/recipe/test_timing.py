import numpy as np
import pytest
import torch
from torch import nn

from kezuri.core.errors import UnknownName, UsageError
from kezuri.measure.size import weights_size
from kezuri.model.coupling import couple
from kezuri.recipe.costs import Costs
from kezuri.recipe.timing import Timing, timed_shape
from kezuri.runtime.export import export_onnx
from kezuri.runtime.runners.onnxruntime import OnnxRuntime


class Net(nn.Module):
    """Its flattening to 8 * 16 values may be written into the exported graph."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.a, self.b = (
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.Linear(128, 12),
            nn.Linear(12, 4),
        )

    def forward(self, x):
        return self.b(self.a(self.norm(self.conv(x)).relu().flatten(1)).relu())


def costs_of(model, inputs, result="module"):
    return Costs(model, couple(model, inputs, result=result), inputs)


def half(costs):
    return {c.name: torch.arange(c.width) % 2 == 0 for c in costs.couplings.free}


def test_proposals_are_prepared_once_and_answer_as_the_cut_model_does(tmp_path):
    torch.manual_seed(0)
    costs = costs_of(Net().eval(), torch.zeros(2, 3, 6, 6))
    images = np.random.default_rng(0).standard_normal((2, 3, 6, 6), dtype=np.float32)
    with Timing(costs) as timing:
        assert timing.exports
        for proposal in ({}, half(costs)):
            ready = timing.prepared(proposal)
            assert timing.prepared(dict(reversed(proposal.items()))) is ready
            own = export_onnx(costs.build(proposal), (3, 6, 6), tmp_path / "own.onnx")
            assert ready.size.value == pytest.approx(own.stat().st_size, rel=0.05)
            answers = [OnnxRuntime().prepare(path).run(images) for path in (ready.model, own)]
            np.testing.assert_allclose(*answers, rtol=1e-4, atol=1e-6)
        compared = timing.compare({"dense": {}, "cut": half(costs)}, seconds=0.1)
        folder = ready.model.parent
    assert not folder.exists()
    assert list(compared.speedups) == ["dense", "cut"]
    cut = compared.speedups["cut"]
    assert cut.low <= cut.value <= cut.high and cut.samples >= 30
    assert compared.latencies["cut"].conditions["runtime"] == "onnxruntime"


class Summed(nn.Module):
    """Its view has a literal size that a slice of its weights would not follow, though it would run."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 32)

    def forward(self, x):
        return self.a(x).relu().view(-1, 32).sum(1, keepdim=True)


def test_a_slice_that_answers_in_another_form_is_not_taken(tmp_path):
    torch.manual_seed(0)
    costs = costs_of(Summed().eval(), torch.zeros(2, 6), result="auto")
    proposal = half(costs)
    assert set(proposal) == {"a"}
    examples = np.random.default_rng(0).standard_normal((2, 6), dtype=np.float32)
    with Timing(costs) as timing:
        assert timing._slices({}, tmp_path / "whole.onnx")
        assert not timing._slices(proposal, tmp_path / "half.onnx")
        answer = OnnxRuntime().prepare(timing.prepared(proposal).model).run(examples)
    np.testing.assert_allclose(answer, costs.build(proposal)(torch.tensor(examples)).detach(), rtol=1e-4)


def test_groups_of_depthwise_convolutions_follow_a_slice(tmp_path):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, groups=8), nn.ConvTranspose2d(16, 16, 3, groups=16)]
    layers += [nn.Conv2d(16, 16, 3, groups=4), nn.Conv2d(16, 2, 1)]
    costs = costs_of(nn.Sequential(*layers).eval(), torch.zeros(2, 3, 6, 6))
    proposal = half(costs)
    assert len(proposal) == 2
    images = np.random.default_rng(0).standard_normal((2, 3, 6, 6), dtype=np.float32)
    with Timing(costs) as timing:
        assert timing._slices(proposal, tmp_path / "half.onnx")
        answer = OnnxRuntime().prepare(tmp_path / "half.onnx").run(images)
    expected = costs.build(proposal)(torch.tensor(images)).detach()
    np.testing.assert_allclose(answer, expected, rtol=1e-3, atol=1e-5)


def test_the_torch_runtime_takes_modules():
    costs = costs_of(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.zeros(2, 6))
    with Timing(costs, "torch") as timing:
        ready = timing.prepared(half(costs))
        assert ready.model[0].out_features == 4
        assert ready.size.value == weights_size(ready.model).value
        assert timing.compare({"cut": half(costs)}, seconds=0.01).latencies["cut"].value > 0
    with pytest.raises(UnknownName, match="onnxruntime"):
        Timing(costs, "onnx")


def test_other_inputs_are_refused():
    assert timed_shape((torch.zeros(2, 3, 5, 5),)) == (3, 5, 5)
    for inputs in (
        (torch.zeros(2, 3), torch.zeros(2, 3)),
        (torch.zeros(2, 3, dtype=torch.long),),
        (torch.zeros(2),),
    ):
        with pytest.raises(UsageError, match=r"take one batch of floating point numbers, got \(2"):
            timed_shape(inputs)
