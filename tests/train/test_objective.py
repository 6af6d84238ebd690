from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn
from torch.nn import Parameter

from kezuri.core.errors import Interrupted, TrainingDiverged, UsageError
from kezuri.train import NullProgress, Objective, Training, estimate_step_seconds, fit
from kezuri.train.losses import cross_entropy

SHORT = Training(epochs=2, batch_size=32, lr=0.05)


@dataclass(frozen=True)
class Plain(Objective):
    """Today's loss, said as an objective."""

    label_smoothing: float = 0.0

    def __call__(self, model, batch, logits, step):
        return cross_entropy(logits, batch.targets, label_smoothing=self.label_smoothing)


class Scaled(Objective):
    """Cross-entropy of logits times a learnt temperature; counts its steps in a tensor it keeps."""

    def __init__(self) -> None:
        self.own, self.begun_with = {}, []

    @contextmanager
    def begun(self, model, start):
        self.own.update({"scale": Parameter(torch.ones(4)), "steps": torch.zeros(())})
        self.begun_with.append(start)
        yield
        self.begun_with.append("ended")

    def __call__(self, model, batch, logits, step):
        self.own["steps"] += 1
        return cross_entropy(logits.float() * self.own["scale"], batch.targets)

    def tensors(self):
        return self.own


class Stop(NullProgress):
    def __init__(self, after):
        self.left = after

    def advance(self, steps, _figures):
        self.left -= steps
        if self.left == 0 and steps:
            raise KeyboardInterrupt


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_one_it_is_the_cross_entropy(net, patterns, same, smoothing) -> None:
    one, other = net(), net()
    settings = Training(epochs=1, batch_size=32, lr=0.05, label_smoothing=smoothing)
    expected = fit(one, patterns, settings, seed=0, device="cpu")
    fitted = fit(other, patterns, settings, seed=0, device="cpu", objective=Plain(smoothing))
    assert same(one, other)
    assert fitted.epochs[0].train_loss == expected.epochs[0].train_loss


def test_its_parameters_are_trained_along(net, patterns) -> None:
    objective = Scaled()
    fit(net(), patterns, SHORT, seed=0, device="cpu", objective=objective)
    assert not torch.equal(objective.own["scale"], torch.ones(4))
    assert objective.own["steps"] == 16
    start, end = objective.begun_with
    assert start.training is SHORT and start.epoch_steps == 8 and start.images.shape == (2, 1, 8, 8)
    assert end == "ended"


@pytest.mark.parametrize("steps", [3, 8, 11])
def test_interrupted_and_resumed_its_tensors_end_the_same(net, patterns, same, tmp_path, steps) -> None:
    whole, expected = net(), Scaled()
    fit(whole, patterns, SHORT, seed=1, device="cpu", objective=expected)
    settings = {"seed": 1, "device": "cpu", "checkpoint": tmp_path}
    with pytest.raises(Interrupted):
        fit(net(), patterns, SHORT, **settings, objective=Scaled(), progress=Stop(steps))
    model, objective = net(seed=9), Scaled()
    fit(model, patterns, SHORT, **settings, objective=objective)
    assert same(model, whole)
    assert all(torch.equal(objective.own[name], expected.own[name]) for name in expected.own)


@dataclass(frozen=True)
class Beside(Objective):
    """An objective that holds another model."""

    other: nn.Module
    weights: dict[str, float] = field(default_factory=dict)

    def __call__(self, model, batch, logits, step):
        return cross_entropy(logits, batch.targets)


@pytest.mark.parametrize(
    "objectives",
    [(None, Plain()), (Plain(), Plain(0.1)), (Plain(), None), ("one", "other"), ("one", "weights")],
    ids=["with", "settings", "without", "weights", "mapping"],
)
def test_a_checkpoint_of_another_objective_is_refused(net, patterns, tmp_path, objectives) -> None:
    first, second = objectives
    if first == "one":
        first = Beside(net())
        second = Beside(net(seed=1)) if second == "other" else Beside(net(), {"a": 1.0})
    settings = {"seed": 0, "device": "cpu", "checkpoint": tmp_path}
    one_epoch = Training(epochs=1, batch_size=64, lr=0.05)
    fit(net(), patterns, one_epoch, **settings, objective=first)
    fit(net(), patterns, one_epoch, **settings, objective=first)
    with pytest.raises(UsageError, match=r"a different training \(not the same: objective\)"):
        fit(net(), patterns, one_epoch, **settings, objective=second)


def test_an_estimate_counts_its_work(net, patterns) -> None:
    objective = Scaled()
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert estimate_step_seconds(model, patterns, SHORT, "cpu", objective) > 0
    assert objective.own["steps"] == 2 and objective.begun_with[-1] == "ended"
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_divergence_of_its_own_parameters_is_named(net, patterns) -> None:
    class Broken(Scaled):
        def __call__(self, model, batch, logits, step):
            with torch.no_grad():
                self.own["scale"][1] = float("inf")
            return super().__call__(model, batch, logits, step)

    with pytest.raises(TrainingDiverged, match=r"not finite: 1 of 10 weight .* first the objective's scale"):
        fit(net(), patterns, SHORT, seed=0, device="cpu", objective=Broken())
