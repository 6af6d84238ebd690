import copy
import json
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

from kezuri.artifact.folder import RunFolder
from kezuri.artifact.journal import Journal
from kezuri.artifact.manifest import Manifest
from kezuri.core.errors import UnknownName, UsageError
from kezuri.core.goal import Goal
from kezuri.data import from_tensors
from kezuri.measure.macs import count_macs
from kezuri.prune.criteria.norm import L2
from kezuri.prune.fitness import MaskFitness
from kezuri.prune.granularity import Channel, Weight
from kezuri.prune.schedule import Iterative
from kezuri.prune.scope import Global, Local
from kezuri.prune.searchers.genetic import Genetic
from kezuri.recipe import meters
from kezuri.recipe.finetune import Finetune
from kezuri.recipe.listener import SilentListener
from kezuri.recipe.loop import Loop
from kezuri.recipe.mask_search import MaskSearch
from kezuri.recipe.payoff import PayoffCheck
from kezuri.recipe.prepare import IN_MEMORY, prepare
from kezuri.recipe.recipe import DataChoice, ModelChoice, Recipe
from kezuri.recipe.run import resources_of
from kezuri.recipe.step import ModelState
from kezuri.recipe.steps.prune import Prune
from kezuri.train import Training, fit


class Hearing(SilentListener):
    def __init__(self, killed=""):
        self.verdicts, self.said, self.killed = [], [], killed

    def say(self, text):
        self.said.append(text)

    def start(self, task, *, total, done):
        if task == self.killed:
            raise KeyboardInterrupt

    def round_done(self, measurements, decision):
        self.verdicts.append((decision["round"], decision["attempt"], decision["verdict"]))


@pytest.fixture(scope="module")
def data():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(360) % 3
    patterns = torch.randn(3, 1, 6, 6, generator=draw)
    images = patterns[labels] + 0.5 * torch.randn(360, 1, 6, 6, generator=draw)
    return from_tensors((images, labels), validation=120, seed=0)


@pytest.fixture(scope="module")
def trained(data):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
        )
    fit(model, data, Training(epochs=4, lr=0.05), seed=0)
    return model


def plan(**changes):
    settings = {
        "criterion": L2(),
        "granularity": Channel(floor=2),
        "scope": Global(count="units"),
        "schedule": Iterative(rounds=2, rate=0.4),
        "finetune": Finetune(epochs=1, lr=0.05),
    }
    return Prune(**{**settings, **changes})


@pytest.fixture
def work(data, trained, tmp_path):
    """Runs a plan; a second call with the same arguments goes on in the same folder."""

    def run(step, goal=None, folder="run", model=trained, killed=""):
        recipe = Recipe(
            "test", ModelChoice(IN_MEMORY), DataChoice(IN_MEMORY), (step,), goal=goal or Goal(accuracy=-0.9)
        )
        prepared = prepare(recipe, model=model, data=data, device="cpu")
        hearing = Hearing(killed)
        resources = resources_of(prepared, RunFolder(tmp_path / folder), hearing)
        state, stop = Loop(step, ModelState(copy.deepcopy(model)), resources, "1-prune").run()
        return state, stop, hearing, Manifest(RunFolder(tmp_path / folder)).read()

    return run


def widths(state):
    return [module.out_channels for module in state.model.modules() if isinstance(module, nn.Conv2d)]


def test_each_round_removes_its_rate_of_what_is_left(work):
    state, stop, hearing, manifest = work(plan())
    assert stop.kind == "rounds" and hearing.verdicts == [
        (0, 0, "dense"),
        (1, 0, "accepted"),
        (2, 0, "accepted"),
    ]
    assert sum(widths(state)) == 32 - 13 - 8  # at least 40 % of 32, then of 19
    assert [d["verdict"] for d in manifest["decisions"]] == ["accepted", "accepted"]
    assert {c["layer"]: c["after"] for c in manifest["cuts"]} == {
        "0": widths(state)[0],
        "2": widths(state)[1],
        "5": 3,
    }


def test_a_round_below_the_floor_is_rolled_back_and_tried_at_half_then_a_quarter(work):
    impossible = Goal(accuracy=0.0)
    step = plan(finetune=Finetune(epochs=0.01, lr=1e-6), schedule=Iterative(rounds=3, rate=0.9))
    state, stop, hearing, manifest = work(step, impossible)
    assert stop.kind == "floor" and "round" in stop.why
    rolled = [entry for entry in hearing.verdicts if entry[2] == "rolled back"]
    assert (
        rolled[-3:] == [(rolled[-1][0], attempt, "rolled back") for attempt in (0, 1, 2)]
        or rolled[-1][1] == 2
    )
    tried = [d["rate"] for d in manifest["decisions"] if d["round"] == manifest["decisions"][-1]["round"]]
    assert tried == [rate for rate in (0.9, 0.45, 0.225) if rate <= tried[0]]
    if not any(entry[2] == "accepted" for entry in hearing.verdicts):
        assert widths(state) == [16, 16]


def test_later_rounds_begin_as_gently_as_the_last_one_ended(work):
    step = plan(
        finetune=Finetune(epochs=0.01, lr=1e-6), schedule=Iterative(rounds=2, rate=0.8), criterion=L2()
    )
    _, _, hearing, _ = work(step, Goal(accuracy=-0.1))
    first = [attempt for round_, attempt, _ in hearing.verdicts if round_ == 1]
    second = [attempt for round_, attempt, _ in hearing.verdicts if round_ == 2]
    if second:
        assert second[0] == first[-1]


def test_nothing_left_above_the_floors_is_saturation(work):
    state, stop, hearing, _ = work(
        plan(granularity=Channel(floor=15), schedule=Iterative(rounds=5, rate=0.5))
    )
    assert stop.kind == "saturation" and widths(state) == [15, 15]
    assert hearing.verdicts[-1][2] == "stopped" and "nothing more" in stop.why


def test_a_round_that_hardly_shrinks_the_model_is_saturation(work):
    state, stop, _, _ = work(plan(schedule=Iterative(rounds=5, rate=0.03), saturation=0.3))
    assert stop.kind == "saturation" and "smaller, less than 30%" in stop.why
    assert sum(widths(state)) == 31  # its model is kept all the same


def test_a_finished_loop_is_not_run_again(work):
    first, _, heard, _ = work(plan())
    again, stop, reheard, manifest = work(plan())
    assert reheard.verdicts == heard.verdicts and stop.kind == "rounds" and len(manifest["decisions"]) == 2
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])


def test_the_start_is_not_changed(work, trained):
    before = copy.deepcopy(trained.state_dict())
    work(plan())
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())


def test_the_fastest_model_is_timed_in_every_round(work):
    _, _, _, manifest = work(plan(), Goal("fastest", accuracy=-0.9))
    assert len(manifest["decisions"]) == 2


def test_weights_are_masked_and_stay_zero_through_retraining(work):
    step = plan(granularity=Weight(), scope=Global(), schedule=Iterative(rounds=2, rate=0.5))
    state, stop, _, _ = work(step)
    assert stop.kind == "rounds" and state.masks.sparsity == pytest.approx(0.75, abs=0.01)
    parameters = dict(state.model.named_parameters())
    for name, mask in state.masks.items():
        assert bool((parameters[name][~mask] == 0).all()) and bool((parameters[name][mask] != 0).any())


SEARCH = MaskSearch(Genetic(population=8), evaluations=40, fitness=MaskFitness(images=60, race=()), split=120)


@pytest.mark.parametrize("granularity", [Weight(), Channel(floor=2)])
def test_masks_can_be_searched_in_every_round_and_a_kill_changes_nothing(work, granularity):
    step = plan(
        granularity=granularity, scope=Global(), schedule=Iterative(rounds=2, rate=0.5), search=SEARCH
    )
    state, stop, hearing, _ = work(step)
    assert stop.kind == "rounds" and sum("searched 40 masks" in line for line in hearing.said) == 2
    removed = sum(
        int((value == 0).sum()) for name, value in state.model.state_dict().items() if value.dim() > 1
    )
    if granularity == Weight():
        assert state.masks.sparsity == pytest.approx(0.75, abs=0.01)
        assert removed == state.masks.removed
    else:
        assert sum(widths(state)) < 26 and removed == 0
    ranked = work(plan(granularity=granularity, scope=Global(), schedule=step.schedule), folder="ranked")[0]
    assert not same(state, ranked)
    for task in ("search", "train"):
        with pytest.raises(KeyboardInterrupt):
            work(step, folder=task, killed=task)
        assert same(work(step, folder=task)[0], state)


def test_a_search_can_remove_as_much_as_an_accuracy_allows(work):
    search = replace(SEARCH, evaluations=160, keep=Goal(accuracy=-0.1))
    state, _, hearing, _ = work(
        plan(granularity=Weight(), scope=Global(), schedule=Iterative(rounds=1, rate=0.3), search=search)
    )
    assert state.masks.sparsity > 0.35
    assert "160 masks" in hearing.said[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": Iterative(rounds=2, rate=0.6)}, "more than half"),
        ({"finetune": Finetune(lr_ratio=0.9)}, "lr_ratio 0.9"),
        ({"finetune": Finetune(epochs=0.5)}, "0.5 retraining epochs"),
        ({"finetune": Finetune(batch_size=8)}, "batch_size 8"),
    ],
)
def test_settings_known_to_fail_are_warned_of_with_the_reason(changes, message):
    (warning,) = plan(**changes).warnings()
    assert message in warning


def test_weights_may_go_fast_and_be_retrained_hot():
    fast = {"schedule": Iterative(rounds=2, rate=0.8), "finetune": Finetune(lr_ratio=1.0)}
    assert plan(granularity=Weight(), **fast).warnings() == []


def test_usual_settings_give_no_warning():
    assert Prune(L2()).warnings() == []


@pytest.fixture(scope="module")
def lopsided(data):
    """Its first coupling holds next to none of its parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = (nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 800), nn.ReLU(), nn.Linear(800, 800), nn.ReLU())
        model = nn.Sequential(nn.Flatten(), *layers, nn.Linear(800, 3))
    fit(model, data, Training(epochs=8, lr=0.1, batch_size=32), seed=0)
    return model


@pytest.fixture
def demanding(monkeypatch):
    """No cut can save as much time as is asked for, so that those that save next to no size are refused."""
    monkeypatch.setitem(PayoffCheck.__init__.__kwdefaults__, "least_time", 1e9)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(meters, "RACE_SECONDS", 0.05)


def same(one, other):
    return all(torch.equal(value, other.model.state_dict()[n]) for n, value in one.model.state_dict().items())


def test_a_cut_that_brings_nothing_is_refused_and_the_others_give_their_rate(
    work, lopsided, demanding, tmp_path
):
    step = plan(scope=Local(count="units"), schedule=Iterative(rounds=1, rate=0.3), payoff=3.0)
    state, _, hearing, manifest = work(step, model=lopsided)
    assert [m.out_features for m in state.model if isinstance(m, nn.Linear)] == [8, 560, 560, 3]
    rows = {row["layer"]: row for row in manifest["cuts"]}
    assert rows["1"]["state"] == "blocked" and rows["1"]["reason"].startswith("refused: cutting it saves")
    assert rows["3"]["state"] == rows["5"]["state"] == "cut"
    (found,) = [
        m for m in Journal(tmp_path / "run" / "measurements.jsonl").read() if m.metric == "expected_latency"
    ]
    assert found.low <= found.value <= found.high and found.unit == "ms"
    assert found.conditions["round"] == 1 and found.conditions["runtime"] == "onnxruntime"
    assert " faster (ONNX Runtime, threads 1); " in hearing.said[0]
    assert hearing.said[1].strip().startswith("expected: 1 left whole: cutting it saves")


def test_a_decision_is_made_once(work, lopsided, demanding, tmp_path):
    step = plan(scope=Local(count="units"), schedule=Iterative(rounds=1, rate=0.3), payoff=3.0)
    with pytest.raises(KeyboardInterrupt):
        work(step, model=lopsided, killed="train")
    for name in ("same", "other"):
        shutil.copytree(tmp_path / "run", tmp_path / name)
    file = tmp_path / "other" / "stages" / "1-prune.round-1.attempt-0.choice" / "record.json"
    record = json.loads(file.read_text())
    assert set(record["kept"]) == {"3", "5"}
    file.write_text(json.dumps({**record, "kept": {"1": [1, 2, 5]}}))  # as no timing would have it
    resumed, _, hearing, manifest = work(step, model=lopsided)
    assert not hearing.said and {c["layer"]: c["after"] for c in manifest["cuts"]}["3"] == 560
    assert same(resumed, work(step, model=lopsided, folder="same")[0])
    other = work(step, model=lopsided, folder="other")[0].model
    assert [m.out_features for m in other if isinstance(m, nn.Linear)] == [3, 800, 800, 3]


def test_a_check_that_refuses_nothing_changes_nothing(work):
    once = plan(schedule=Iterative(rounds=1, rate=0.4))
    checked, stop, _, _ = work(plan(schedule=Iterative(rounds=1, rate=0.4), payoff=0.1))
    assert stop.kind == "rounds" and same(checked, work(once, folder="plain")[0])


def test_the_loop_ends_as_soon_as_the_budget_is_met_and_removes_no_more_than_it_takes(work, trained):
    image = torch.zeros(2, 1, 6, 6)
    limit = 0.5 * count_macs(trained, image)
    state, stop, hearing, manifest = work(plan(schedule=Iterative(rounds=9, rate=0.2), budget={"macs": 0.5}))
    assert stop.kind == "budget" and len(hearing.verdicts) < 9 and stop.missed == ()
    assert "meets the budget: macs " in stop.why and "(budget 50.0%)" in stop.why
    rates = [entry["rate"] for entry in manifest["decisions"]]
    assert rates[:-1] == pytest.approx([0.2] * len(rates[:-1])) and rates[-1] < 0.19

    def macs(first, second):
        return 9 * 16 * first + 9 * 4 * first * second + 12 * second

    first, second = widths(state)
    assert macs(16, 16) == 2 * limit
    assert macs(first, second) <= limit < max(macs(first + 1, second), macs(first, second + 1))


def test_a_budget_that_is_not_met_says_how_far_it_came(work):
    once = Iterative(rounds=1, rate=0.3)
    _, stop, hearing, manifest = work(plan(schedule=once, budget={"macs": 0.01, "params": 0.99}))
    (missed,) = stop.missed
    assert stop.kind == "rounds" and "; the budget is not met: macs " in stop.why
    assert missed.startswith("the budget: macs ") and missed.endswith("of the dense model's (budget 1.0%)")
    assert manifest["stop"] == {"kind": "rounds", "why": stop.why, "missed": [missed]}
    assert any("params" in text and "macs" in text for text in hearing.said)
    untuned = Finetune(epochs=0.01, lr=1e-6)
    hard = plan(schedule=Iterative(rounds=1, rate=0.9), finetune=untuned, budget={"macs": 0.01})
    state, stop, hearing, manifest = work(hard, Goal(accuracy=0.0), "floor")
    assert stop.kind == "floor" and widths(state) == [16, 16]
    assert stop.missed == ("the budget: nothing was removed",)


def test_an_attempt_after_a_roll_back_removes_half_of_what_the_budget_took(work):
    hard = plan(
        schedule=Iterative(rounds=1, rate=0.9),
        finetune=Finetune(epochs=0.01, lr=1e-6),
        budget={"macs": 0.3},
    )
    _, _, _, manifest = work(hard, Goal(accuracy=0.0))
    rates = [entry["rate"] for entry in manifest["decisions"]]
    assert rates[0] < 0.9 and rates == [rates[0], rates[0] / 2, rates[0] / 4]


def test_a_budget_that_is_met_already_removes_nothing(work, quick):
    state, stop, hearing, _ = work(plan(budget={"latency": 1000, "size": 1e9}))
    assert stop.kind == "budget" and widths(state) == [16, 16]
    assert stop.why.startswith("the model as it is meets the budget: latency ")
    assert hearing.verdicts == [(0, 0, "dense"), (1, 0, "stopped")]


def test_latency_is_taken_against_the_model_before_the_first_round(work, quick, tmp_path):
    step = plan(schedule=Iterative(rounds=2, rate=0.3), budget={"latency": 0.001}, saturation=0.0)
    _, stop, _, _ = work(step)
    assert stop.kind == "rounds" and "the budget is not met: latency " in stop.why
    records = [
        json.loads(path.read_text())["reached"][0]
        for path in sorted((tmp_path / "run" / "stages").glob("*.choice/record.json"))
    ]
    assert len(records) == 2 and records[0]["dense"] == records[1]["dense"]
    assert all(one["limit"] == pytest.approx(0.001 * one["dense"]) for one in records)
    rows = [
        m for m in Journal(tmp_path / "run" / "measurements.jsonl").read() if m.metric == "expected_latency"
    ]
    assert [m.value for m in rows] == [one["found"]["value"] for one in records]


class Stubborn(nn.Module):
    """One of its layers is read by code that lies when it gets narrower."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(36, 16), nn.Linear(16, 24), nn.Linear(24, 3)

    def forward(self, x):
        x = self.a(x.flatten(1)).relu()
        if x.shape[1] < 16:
            x = x * 2
        return self.c(self.b(x).relu())


@pytest.mark.parametrize("changes", [{}, {"budget": {"macs": 0.85}}])
def test_what_cannot_be_proved_is_listed_as_blocked(work, data, changes):
    torch.manual_seed(0)
    model = Stubborn()
    fit(model, data, Training(epochs=4, lr=0.05), seed=0)
    step = plan(scope=Local(count="units"), schedule=Iterative(rounds=1, rate=0.5), **changes)
    state, stop, _, manifest = work(step, model=model)
    rows = {row["layer"]: row for row in manifest["cuts"]}
    assert rows["a"]["state"] == "blocked" and rows["a"]["after"] == state.model.a.out_features == 16
    assert rows["a"]["reason"].startswith("rejected: ") and rows["b"]["after"] < 24
    assert stop.kind == ("budget" if changes else "rounds")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"payoff": -1.0}, UsageError, "payoff is a number of seconds, 0 for none, got -1"),
        ({"payoff": float("nan")}, UsageError, "got nan"),
        (
            {"payoff": 5.0, "granularity": Weight()},
            UsageError,
            "payoff .* granularity 'channel', got 'weight'",
        ),
        ({"budget": {"macs": 0.5}, "granularity": Weight()}, UsageError, "budget .*, got 'weight'"),
        ({"budget": {}}, UsageError, "the budget is empty; give a ceiling on one of params, macs, size"),
        ({"budget": {"mac": 0.5}}, UnknownName, "did you mean 'macs'"),
        ({"budget": {"macs": 0}}, UsageError, "got 0"),
        ({"budget": {"macs": 0.5}, "search": SEARCH}, UsageError, "a search goes by sparsity"),
    ],
)
def test_bad_values_are_refused(changes, error, words):
    with pytest.raises(error, match=words):
        plan(**changes)
