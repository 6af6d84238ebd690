import copy

import pytest
import torch
from torch import nn

from kezuri.artifact.folder import RunFolder
from kezuri.artifact.manifest import Manifest
from kezuri.core.goal import Goal
from kezuri.data import from_tensors
from kezuri.prune.criteria.norm import L2
from kezuri.prune.granularity import Channel, Weight
from kezuri.prune.schedule import Iterative
from kezuri.prune.scope import Global
from kezuri.recipe.finetune import Finetune
from kezuri.recipe.listener import SilentListener
from kezuri.recipe.loop import Loop
from kezuri.recipe.prepare import IN_MEMORY, prepare
from kezuri.recipe.recipe import DataChoice, ModelChoice, Recipe
from kezuri.recipe.run import resources_of
from kezuri.recipe.step import ModelState
from kezuri.recipe.steps.prune import Prune
from kezuri.train import Training, fit


class Hearing(SilentListener):
    def __init__(self):
        self.verdicts = []

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

    def run(step, goal=None, folder="run"):
        recipe = Recipe(
            "test", ModelChoice(IN_MEMORY), DataChoice(IN_MEMORY), (step,), goal=goal or Goal(accuracy=-0.9)
        )
        prepared = prepare(recipe, model=trained, data=data, device="cpu")
        hearing = Hearing()
        resources = resources_of(prepared, RunFolder(tmp_path / folder), hearing)
        state, stop = Loop(step, ModelState(copy.deepcopy(trained)), resources, "1-prune").run()
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


def test_usual_settings_give_no_warning():
    assert Prune(L2()).warnings() == []
