import copy
import re

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import kezuri
from kezuri.core.errors import (
    GoalUnreachable,
    MissingEvidence,
    ModelError,
    RecipeError,
    UnknownName,
    UsageError,
)
from kezuri.measure.macs import count_macs, count_params
from kezuri.model.zoo import zoo
from kezuri.prune.criteria.norm import L1
from kezuri.prune.granularity import Channel
from kezuri.prune.scope import Global
from kezuri.prune.select import select_masks
from kezuri.recipe.prune_channels import prune_channels

IMAGES = torch.zeros(2, 3, 16, 16)


class Both(nn.Module):
    """Tokens and images: an embedding, an LSTM, a transposed convolution and a loose kernel."""

    def __init__(self):
        super().__init__()
        self.table, self.read = nn.Embedding(10, 16), nn.LSTM(16, 32, batch_first=True)
        self.down, self.up = nn.Conv2d(3, 16, 3), nn.ConvTranspose2d(16, 24, 3)
        self.kernel = nn.Parameter(torch.randn(20, 24, 3, 3))
        self.head = nn.Linear(52, 5)

    def forward(self, tokens, images):
        maps = nn.functional.conv2d(self.up(self.down(images).relu()), self.kernel).relu().mean((2, 3))
        return self.head(torch.cat([maps, self.read(self.table(tokens))[0][:, -1]], 1))


class Literal(nn.Module):
    """Its view holds a size as a number."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(12, 32), nn.Linear(32, 12)

    def forward(self, x):
        return self.b(self.a(x).relu().view(-1, 4, 8).flatten(1))


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return zoo["resnet8"]().eval()


def removed(pruned):
    return sum(int((~kept).sum()) for kept in pruned.kept.values())


def test_half_of_a_residual_network_goes_and_the_one_given_stays(resnet):
    before = copy.deepcopy(resnet.state_dict())
    pruned = prune_channels(resnet, IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in resnet.state_dict().items())
    assert type(pruned.model) is type(pruned.masked) is type(resnet)
    assert pruned.rewritten is None and not pruned.report.rejected
    assert 0 < pruned.proof <= 1e-5
    images = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(pruned.model(images), pruned.masked(images), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(pruned.model(images), resnet(images))
    assert (pruned.before.params, pruned.before.macs) == (
        count_params(resnet),
        count_macs(resnet, (3, 16, 16)),
    )
    assert pruned.after.params == count_params(pruned.model)
    assert pruned.after.macs == count_macs(pruned.model, (3, 16, 16))
    rows = {row.layer: row for row in pruned.report}
    assert rows["conv1"].state == "cut" and rows["linear"].reason == "graph output"
    assert rows["conv1"].kept == pruned.model.conv1.out_channels
    pruned.model.train()(images).sum().backward()


def test_sparsity_counts_the_weights_that_may_go(resnet):
    for asked in (0.3, 0.7):
        pruned = prune_channels(resnet, IMAGES, asked, "l1", "global", round_to=1)
        masks = select_masks(
            resnet,
            asked,
            criterion=L1(),
            granularity=Channel(),
            scope=Global(),
            couplings=pruned.couplings,
        ).masks
        left = sum(pruned.model.get_parameter(name).numel() for name in masks)
        assert masks.total - left == masks.removed
        largest = max(masks.total // 500, 1400)  # one channel of the widest stage
        assert asked <= masks.removed / masks.total < asked + largest / masks.total


def test_more_sparsity_only_removes_more_and_equal_seeds_give_equal_models(resnet):
    loose, tight = (prune_channels(resnet, IMAGES, asked, "random", seed=3) for asked in (0.2, 0.6))
    assert all((tight.kept[name] <= loose.kept[name]).all() for name in loose.kept)
    again = prune_channels(resnet, IMAGES, 0.2, "random", seed=3)
    assert all(torch.equal(again.kept[name], kept) for name, kept in loose.kept.items())
    other = prune_channels(resnet, IMAGES, 0.2, "random", seed=4)
    assert not all(torch.equal(other.kept[name], kept) for name, kept in loose.kept.items())


def test_any_weight_competes_whatever_the_inputs():
    torch.manual_seed(0)
    model, inputs = Both().eval(), (torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, 3, 9, 9))
    pruned = prune_channels(model, inputs, scope="local", criterion="l1")
    assert {name: int(kept.sum()) for name, kept in pruned.kept.items()} == {
        "down": 8,
        "up": 12,
        "kernel": 8,
        "table": 8,
        "read.weight_ih_l0": 16,
    }
    assert pruned.proof <= 1e-5 and pruned.rewritten is None
    assert pruned.after.macs == count_macs(pruned.model, inputs) < 0.4 * pruned.before.macs
    within = prune_channels(model, inputs, budget={"macs": 0.6, "params": 0.9})
    assert 0.5 < within.after.macs / within.before.macs <= 0.6


@pytest.mark.parametrize(
    ("round_to", "steps"),
    [(None, {8: 2, 16: 4, 32: 8, 64: 8}), (8, {8: 8, 16: 8, 32: 8, 64: 8}), (1, {8: 1, 16: 1, 32: 1, 64: 1})],
)
def test_kept_channels_are_rounded(resnet, round_to, steps):
    pruned = prune_channels(resnet, IMAGES, 0.5, round_to=round_to)
    assert {len(kept) for kept in pruned.kept.values()} == set(steps)
    for name, kept in pruned.kept.items():
        assert int(kept.sum()) % steps[len(kept)] == 0, name
        assert int(kept.sum()) >= steps[len(kept)]


def test_floors_and_protected_layers(resnet):
    pruned = prune_channels(resnet, IMAGES, 0.95, floor=0.5, protect=["layer1.*"], round_to=1)
    for name, kept in pruned.kept.items():
        assert int(kept.sum()) >= len(kept) / 2, name
    assert "conv1" not in pruned.kept and "layer1.0.conv1" not in pruned.kept
    assert {row.layer: row.reason for row in pruned.report}["layer1.0.conv1"] == "protected"
    assert pruned.report.shortfall > 0.1 and "floors hold" in str(pruned.report)
    counted = prune_channels(resnet, IMAGES, 0.95, floor=12, round_to=1)
    assert all(int(kept.sum()) == min(12, len(kept)) for kept in counted.kept.values())


@pytest.mark.parametrize("scope", ["global", "local", "isomorphic"])
@pytest.mark.parametrize("metric", ["params", "macs"])
def test_budgets_are_met_by_no_more_than_it_takes(resnet, scope, metric):
    pruned = prune_channels(resnet, IMAGES, scope=scope, budget={metric: 0.5}, round_to=1)
    count = count_params if metric == "params" else lambda model: count_macs(model, (3, 16, 16))
    share = count(pruned.model) / count(resnet)
    # global: one channel less is above it; elsewhere all layers move together
    assert (0.495 if scope == "global" else 0.4) < share <= 0.5
    assert prune_channels(resnet, IMAGES, budget={metric: count(resnet)}).after == pruned.before


def test_sizes_are_those_of_the_exported_file(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 90, 3), nn.BatchNorm2d(90), nn.ReLU(), nn.Conv2d(90, 50, 3)).eval()
    dense = kezuri.export_onnx(net, (3, 16, 16), tmp_path / "dense.onnx").stat().st_size
    pruned = prune_channels(net, IMAGES, budget={"size": 0.5}, round_to=1)
    cut = kezuri.export_onnx(pruned.model, (3, 16, 16), tmp_path / "cut.onnx").stat().st_size
    assert 0.48 < cut / dense <= 0.5005


def test_a_latency_is_met_as_it_is_measured():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 4096), nn.ReLU(), nn.Linear(4096, 64)).eval()
    pruned = prune_channels(model, torch.zeros(2, 64), budget={"latency": 0.5}, runtime="torch")
    assert 0 < removed(pruned) < 4096


def test_a_budget_out_of_reach_says_how_far_it_goes_and_what_holds(resnet):
    with pytest.raises(GoalUnreachable) as caught:
        prune_channels(resnet, IMAGES, budget={"params": 0.001}, protect=["layer3"])
    text = str(caught.value)
    assert "parameters (0.1% of the dense model's) cannot be reached" in text
    assert "% protected (" in text and "floors and rounding (layer1.0.conv1" in text
    assert sum(int(share) for share in re.findall(r"(\d+)%", text.partition("held by")[2])) in range(97, 104)
    furthest = prune_channels(resnet, IMAGES, 0.9999999, protect=["layer3"]).after.params
    assert f"{furthest:,.4g} are left" in text


def test_criteria_that_look_at_data_are_given_it(resnet):
    with pytest.raises(MissingEvidence, match=r"'taylor' looks at data .*: pass data="):
        prune_channels(resnet, IMAGES, criterion="taylor")
    torch.manual_seed(0)
    data = TensorDataset(torch.rand(40, 3, 16, 16), torch.arange(40) % 10)
    pruned = prune_channels(resnet, IMAGES, 0.3, "taylor", data=data)
    again = prune_channels(resnet, IMAGES, 0.3, "taylor", data=data)
    assert removed(pruned) > 0
    assert all(torch.equal(again.kept[name], kept) for name, kept in pruned.kept.items())
    with pytest.raises(UsageError, match="got list"):
        prune_channels(resnet, IMAGES, criterion="taylor", data=[1])


def test_what_a_criterion_learnt_nothing_of_stays_whole_and_says_so():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        *(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)),
    ).eval()
    data = TensorDataset(torch.rand(20, 3, 8, 8), torch.arange(20) % 4)
    pruned = prune_channels(model, torch.zeros(2, 3, 8, 8), criterion="bn_scale", data=data)
    assert set(pruned.kept) == {"0"}
    rows = {row.layer: row for row in pruned.report}
    assert rows["5"].state == "blocked"
    assert rows["5"].reason == "the criterion 'bn_scale' could learn nothing of 5.weight"
    with pytest.raises(MissingEvidence, match=r"5\.weight has no 'norm_scale'"):
        prune_channels(model[4:], torch.zeros(2, 16, 1, 1), criterion="bn_scale", data=other(data))


class Added(nn.Module):
    """A loose map joins what a convolution makes; loose queries are read by a layer and made by none."""

    def __init__(self):
        super().__init__()
        self.conv, self.map = nn.Conv2d(3, 8, 3), nn.Parameter(torch.randn(8, 1, 1))
        self.queries, self.read, self.head = nn.Parameter(torch.randn(12)), nn.Linear(12, 4), nn.Linear(8, 4)

    def forward(self, x):
        return self.head((self.conv(x).relu() * self.map).mean((2, 3))) + self.read(self.queries * x.mean())


def test_evidence_about_outputs_says_nothing_of_what_is_only_read():
    torch.manual_seed(0)
    model, images = Added().eval(), torch.zeros(2, 3, 8, 8)
    assert set(prune_channels(model, images).kept) == {"conv", "read input"}
    data = TensorDataset(torch.rand(20, 3, 8, 8), torch.arange(20) % 4)
    pruned = prune_channels(model, images, criterion="taylor", data=data)
    assert set(pruned.kept) == {"conv"}
    assert "no weight produces it" in pruned.couplings.named("read input").reason


def test_gates_are_trained_where_they_can_stand():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), Loose(8)).eval()
    data = TensorDataset(torch.rand(40, 3, 8, 8), torch.arange(40) % 4)
    pruned = prune_channels(model, torch.zeros(2, 3, 8, 8), criterion="pcas", data=data)
    assert set(pruned.kept) == {"0"} and pruned.proof <= 1e-5
    reason = {row.layer: row.reason for row in pruned.report}["2"]
    assert reason == "the criterion 'pcas' could learn nothing of 2.weight"


class Loose(nn.Module):
    """A head without a layer."""

    def __init__(self, width):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, width))

    def forward(self, x):
        return nn.functional.linear(x.mean((2, 3)), self.kernel)


def other(data):
    return TensorDataset(torch.rand(20, 16, 1, 1), data.tensors[1])


def test_a_literal_size_gives_a_rewritten_program_unless_the_module_is_wanted():
    torch.manual_seed(0)
    model = Literal().eval()
    pruned = prune_channels(model, torch.zeros(2, 12))
    assert "literal size in view" in pruned.rewritten and type(pruned.masked) is Literal
    assert "result: a rewritten program, because a: literal size in view" in str(pruned.report)
    x = torch.randn(5, 12)
    torch.testing.assert_close(pruned.model(x), pruned.masked(x))
    with pytest.raises(ModelError, match=r"no channel of the model may be cut: a \(literal size"):
        prune_channels(model, torch.zeros(2, 12), result="module")
    with pytest.raises(ModelError, match="literal size"):
        prune_channels(model, torch.zeros(2, 12), inplace=True)


class Stubborn(nn.Module):
    """One of its layers is read by code that breaks, or lies, when it gets narrower."""

    def __init__(self, lies):
        super().__init__()
        self.lies = lies
        self.a, self.b, self.c = nn.Linear(12, 16), nn.Linear(16, 24), nn.Linear(24, 4)

    def forward(self, x):
        x = self.a(x).relu()
        if x.shape[1] < 16:
            x = x * 2 if self.lies else x.view(-1, 16)
        return self.c(self.b(x).relu())


@pytest.mark.parametrize("lies", [True, False])
@pytest.mark.parametrize("settings", [{}, {"budget": {"macs": 0.8}}, {"budget": {"params": 0.8}}])
def test_what_cannot_be_proved_stays_whole_and_the_others_meet_the_target(lies, settings):
    torch.manual_seed(0)
    model = Stubborn(lies).eval()
    pruned = prune_channels(model, torch.zeros(2, 12), criterion="l1", **settings)
    assert set(pruned.report.rejected) == {"a"} and set(pruned.kept) == {"b"}
    row = {row.layer: row for row in pruned.report}["a"]
    assert row.state == "blocked" and row.reason.startswith("rejected: ")
    assert "a was left whole: " in str(pruned.report)
    gone = 1 - pruned.kept["b"].double().mean()
    assert gone >= 0.5 if not settings else pruned.after.params <= 0.8 * pruned.before.params
    assert pruned.proof <= 1e-5


def test_in_place_the_optimizer_goes_on():
    torch.manual_seed(0)
    model = zoo["resnet8"]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(4, 3, 16, 16)).sum().backward()
    optimizer.step()
    pruned = prune_channels(model, IMAGES, inplace=True, optimizer=optimizer)
    assert pruned.model is model and model.training
    assert count_params(model) == pruned.after.params < pruned.before.params == count_params(pruned.masked)
    for parameter in model.parameters():
        assert optimizer.state[parameter]["momentum_buffer"].shape == parameter.shape
    model(torch.randn(4, 3, 16, 16)).sum().backward()
    optimizer.step()


def test_the_pay_off_is_checked_when_asked_for():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 8)
    ).eval()
    pruned = prune_channels(model, torch.zeros(2, 16), payoff=1.0, runtime="torch")
    found = pruned.payoff
    assert found is pruned.report.payoff and found.rounding in (16, 8, 4, 1)
    assert found.size_after.value < found.size_before.value
    assert "pay-off:" in str(pruned.report)
    fixed = prune_channels(model, torch.zeros(2, 16), payoff=1.0, runtime="torch", round_to=32)
    assert fixed.payoff.rounding is None and not fixed.payoff.tried
    assert all(int(kept.sum()) % 32 == 0 for kept in fixed.kept.values())


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"sparsity": 1.0}, RecipeError, r"\[0, 1\), got 1"),
        ({"criterion": "tailor"}, UnknownName, "did you mean 'taylor'"),
        ({"scope": "globl"}, UnknownName, "did you mean 'global'"),
        ({"runtime": "onnx"}, UnknownName, "onnxruntime"),
        ({"budget": {"flops": 0.5}}, UnknownName, "params"),
        ({"budget": {"macs": 0.5}, "sparsity": 0.3}, UsageError, "got both"),
        ({"floor": 1.5}, UsageError, "whole number of channels; got 1.5"),
        ({"floor": 0}, UsageError, "got 0"),
        ({"round_to": 0}, RecipeError, "round_to=0"),
        ({"payoff": -1}, UsageError, "number of seconds, got -1"),
        ({"protect": ["layer9"]}, UsageError, "layer9"),
        ({"inplace": True, "result": "program"}, UsageError, "another model"),
        ({"optimizer": torch.optim.SGD([nn.Parameter(torch.ones(1))])}, UsageError, "inplace=True"),
    ],
)
def test_mistakes_are_named_before_any_work(resnet, settings, error, words):
    with pytest.raises(error, match=words):
        prune_channels(resnet, IMAGES, **settings)


def test_pay_off_and_measured_budgets_need_one_batch_of_numbers():
    model, inputs = Both().eval(), (torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, 3, 9, 9))
    for settings in ({"payoff": True}, {"budget": {"size": 0.5}}, {"budget": {"latency": 0.5}}):
        with pytest.raises(UsageError, match="one batch of floating point numbers"):
            prune_channels(model, inputs, **settings)
