"""Populations: exact sparsity, truncation and exploration, any executor, killed and resumed."""

import copy
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kezuri.core.errors import Interrupted, KezuriWarning, RecipeError, TrainingDiverged, UsageError
from kezuri.core.executor import Inline, Processes
from kezuri.core.progress import NullProgress
from kezuri.data import from_tensors
from kezuri.model.load import load_model
from kezuri.prune.exploring import Exploring, Raised, standing
from kezuri.prune.mask_space import mask_space
from kezuri.prune.member import weights_in
from kezuri.prune.population import Population, train_population
from kezuri.prune.scope import Local
from kezuri.train import Training, evaluate, fit
from kezuri.train.lr_schedules import Constant
from kezuri.train.optimizers import SGD, Adam

SCRIPT = Path(__file__).with_name("populate_and_kill.py")
TRAINING = Training(epochs=3, batch_size=30, lr=0.05)
PLAN = Population(sparsity=0.8, members=4, intervals=3, aside=40)


OWN = """\
from torch import nn

class Net(nn.Sequential):
    def __init__(self, classes):
        super().__init__(nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, classes))
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(260) % 4
    images = torch.randn(4, 1, 8, 8, generator=draw)[labels] + torch.randn(260, 1, 8, 8, generator=draw)
    return from_tensors((images, labels), validation=60)


@pytest.fixture(scope="module")
def dense(data):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        convolution = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(4)
        model = nn.Sequential(*convolution, nn.Flatten(), nn.Linear(96, 4))
    fit(model, data, Training(epochs=4, lr=0.05, batch_size=30), seed=0, device="cpu")
    return model.eval()


@pytest.fixture
def train(dense, data):
    def train(plan=PLAN, training=TRAINING, *, space=None, model=None, seed=0, **more):
        model = copy.deepcopy(dense) if model is None else model
        space = space or mask_space(dense)
        return model, train_population(model, data, training, plan, space, seed=seed, device="cpu", **more)

    return train


class Stops(NullProgress):
    """Ctrl-C after the second member of the second generation."""

    def __init__(self):
        self.left = 6

    def advance(self, steps, _figures):
        self.left -= steps
        if self.left == 0:
            raise KeyboardInterrupt


def same(one, other):
    model, found = one
    again, refound = other
    timeless = [
        [[replace(member, seconds=0) for member in row] for row in each.history] for each in (found, refound)
    ]
    ours, theirs = model.state_dict(), again.state_dict()
    return (
        torch.equal(found.kept, refound.kept)
        and timeless[0] == timeless[1]
        and all(torch.equal(ours[name], theirs[name]) for name in ours)
    )


def test_ends_as_the_best_member_at_the_sparsity(train, dense, data):
    model, found = train()
    space = mask_space(dense)
    assert int(found.kept.sum()) == space.units - math.ceil(0.8 * space.units)
    assert found.masks.sparsity == pytest.approx(0.8, abs=1 / space.units)
    for name, mask in found.masks.items():
        weight = dict(model.named_parameters())[name]
        assert bool((weight[~mask] == 0).all()) and bool((weight[mask] != 0).any())
    members = [one for row in found.history for one in row]
    assert found.best.accuracy == max(one.accuracy for one in members) > 0.5
    assert {one.weights for one in members} == {int(found.kept.sum())}
    assert evaluate(model, data.validation, device="cpu").accuracy > 0.4
    assert len(found.history) == 3 and all(len(row) == 4 for row in found.history) and found.seconds > 0


def test_the_worst_are_replaced_by_copies_of_the_best_that_change(train):
    _, found = train(replace(PLAN, resample=0.0))
    for before, after in zip(found.history, found.history[1:], strict=False):
        ranked = sorted(before, key=standing)
        for one in after:
            if one.parent == one.member:
                assert one.lr == before[one.member].lr and one.swapped == 0
            else:
                parent = before[one.parent]
                assert before[one.member] == ranked[0] and parent == ranked[-1] and one.swapped > 0
                assert any(math.isclose(one.lr, parent.lr * factor) for factor in (0.8, 1.2))
                decays = (parent.weight_decay * factor for factor in (0.8, 1.2))
                assert any(math.isclose(one.weight_decay, decay) for decay in decays)
        assert sum(one.parent != one.member for one in after) == 1


@pytest.mark.parametrize("optimizer", [SGD(), Adam()])
@pytest.mark.parametrize("grow", ["gradient", "worth"])
def test_what_comes_back_begins_at_zero_without_momentum(
    train, dense, monkeypatch, tmp_path, grow, optimizer
):
    """Looks at the state of a copy before its first step, and at the parent's it is from."""
    from kezuri.prune import member

    seen = []
    begin = member.Member._begin

    def watched(self):
        begin(self)
        if self.task.parent not in (None, self.task.member):
            parameters = dict(self.model.named_parameters())
            parent = weights_in(self.plan.kept_of(self.task.generation - 1, self.task.parent))[1]
            earlier, now = self.plan.space.masks(parent), self.masks
            for name, mask in now.items():
                weight = parameters[name].detach()
                states = [
                    s for s in self.loop.optimizer.state[parameters[name]].values() if s.shape == weight.shape
                ]
                back, gone, stays = mask & ~earlier[name], ~mask & earlier[name], mask & earlier[name]
                assert not weight[back].any() and not weight[gone].any() and bool(weight[stays].all())
                assert states and not any(state[back].any() for state in states)
                assert any(state[stays].any() for state in states)
                seen.append(int(back.sum()))

    monkeypatch.setattr(member.Member, "_begin", watched)
    train(replace(PLAN, swap=0.3, grow=grow), replace(TRAINING, optimizer=optimizer, lr=0.02))
    assert sum(seen) > 5


def test_removed_units_stay_removed_and_layers_keep_their_share(train, dense):
    masks = mask_space(dense).masks(torch.arange(mask_space(dense).units) % 2 == 0)
    space = mask_space(dense, masks=masks, scope=Local())
    _, found = train(space=space)
    for name, mask in found.masks.items():
        assert not (mask & ~masks[name]).any()
        assert int((~mask).sum()) == math.ceil(0.8 * mask.numel())


def test_the_same_seed_gives_the_same_and_another_another(train):
    assert same(train(), train())
    assert not same(train(), train(seed=1))


def test_the_number_of_threads_does_not_matter(train):
    one = train()
    torch.set_num_threads(2)
    try:
        assert same(one, train())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_a_finished_population_is_not_trained_again(train, tmp_path):
    class Never(Inline):
        def staying(self):
            raise AssertionError("was trained again")

    first = train(checkpoint=tmp_path)
    assert same(first, train(checkpoint=tmp_path, executor=Never()))
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept[-1] == "history.json" and "generation-0002" in kept and len(kept) <= 3


@pytest.mark.parametrize("kills", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_killed_and_resumed_it_is_bit_identical(tmp_path, kills):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(SCRIPT), str(tmp_path), str(kills)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    resumes = [int(line) for line in (tmp_path / "resumes.txt").read_text().split()]
    assert resumes[0] == 0 and resumes[-1] > 0  # the kills came after something was saved
    for kind in ("safetensors", "json"):
        whole, resumed = ((tmp_path / f"{name}.{kind}").read_bytes() for name in ("whole", "resumed"))
        assert whole == resumed


def test_ctrl_c_is_said_and_processes_go_on_to_the_same(train, tmp_path):
    """With a model from a file of the user's own, which other processes have to import first."""
    file = tmp_path / "nets.py"
    file.write_text(OWN)
    net = load_model(f"{file}:Net", classes=4, image_shape=(1, 8, 8))
    space = mask_space(net)
    whole = train(model=copy.deepcopy(net), space=space)
    with pytest.raises(Interrupted, match="interrupted after 1 of 3 intervals"):
        train(model=copy.deepcopy(net), space=space, checkpoint=tmp_path / "kept", progress=Stops())
    resumed = train(model=net, space=space, checkpoint=tmp_path / "kept", executor=Processes(2))
    assert same(whole, resumed)


def test_another_population_does_not_go_on_from_a_checkpoint(train, tmp_path):
    train(replace(PLAN, intervals=1), checkpoint=tmp_path)
    with pytest.raises(UsageError, match=r"a different population \(not the same: population, seed\)"):
        train(checkpoint=tmp_path, seed=1)


def test_a_damaged_member_is_trained_again(train, tmp_path):
    whole = train()
    with pytest.raises(Interrupted):
        train(checkpoint=tmp_path, progress=Stops())
    damaged = tmp_path / "generation-0001" / "member-001" / "0001.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-4] + b"oops")
    with pytest.warns(KezuriWarning, match="is damaged"):
        assert same(whole, train(checkpoint=tmp_path))


def test_one_that_diverges_is_replaced(train):
    plan = replace(PLAN, spread=1e36, resample=0.0)
    _, found = train(plan, replace(TRAINING, lr_schedule=Constant()), seed=2)
    lost = [one for one in found.history[0] if one.diverged]
    assert lost and "not finite" in lost[0].diverged and not found.best.diverged
    assert all(found.history[1][one.member].parent != one.member for one in lost)
    with pytest.raises(TrainingDiverged, match="every member of the population: training diverged"):
        train(replace(PLAN, spread=1.0), replace(TRAINING, lr=1e12))


def test_frozen_batchnorm_keeps_its_statistics(train, dense):
    model, _ = train(replace(PLAN, intervals=1, members=2), frozen_batchnorm=True)
    assert torch.equal(model[1].running_mean, dense[1].running_mean)
    model, _ = train(replace(PLAN, intervals=1, members=2))
    assert not torch.equal(model[1].running_mean, dense[1].running_mean)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": 1}, "members is 2 or more, got 1"),
        ({"intervals": 0}, "intervals is 1 or more, got 0"),
        ({"quantile": 0.6}, r"quantile is a fraction in \(0, 0.5\], got 0.6"),
        ({"swap": 1.5}, r"swap is a fraction in \[0, 1\], got 1.5"),
        ({"resample": -0.1}, "resample is a fraction"),
        ({"grow": "luck"}, "grow is 'gradient' or 'worth', got 'luck'"),
        ({"temperatures": ()}, "temperatures is a list of numbers of 0 or more"),
        ({"factors": (0.0, 1.2)}, "factors is two numbers above 0"),
        ({"spread": 0.5}, "spread is 1 or more"),
        ({"aside": 1.0}, r"aside is a fraction in \(0, 1\) or a number of images, got 1.0"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        Population(**changes)


def test_what_makes_no_sense_is_refused_before_any_work(train):
    with pytest.raises(RecipeError, match=r"sparsity is a fraction in \[0, 1\)"):
        Population(sparsity=1.0)
    with pytest.raises(UsageError, match="9 intervals are more than the 6 training steps of a member"):
        train(replace(PLAN, intervals=9), replace(TRAINING, epochs=1))


def test_swaps_fade():
    fractions = [PLAN.swap_in(generation) for generation in range(3)]
    assert fractions[0] == PLAN.swap and fractions == sorted(fractions, reverse=True) and fractions[-1] > 0
    assert fractions[1] == pytest.approx(PLAN.swap * 0.75)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 5), st.booleans()), min_size=2, max_size=9),
    st.floats(0.01, 0.5),
    st.integers(0, 1000),
)
def test_tasks_keep_the_best_and_cover_every_step(figures, quantile, seed):
    members = len(figures)
    plan = Population(members=members, intervals=3, quantile=quantile)
    exploring = Exploring(plan, TRAINING, 17, seed)
    before = [
        Raised(0, number, None, 0.1, 1e-4, accuracy=accuracy, loss=loss, diverged="yes" if lost else None)
        for number, (accuracy, loss, lost) in enumerate(figures)
    ]
    if all(one.diverged for one in before):
        return
    tasks = [exploring.tasks(generation, before) for generation in range(3)]
    assert [(row[0].first, row[0].last) for row in tasks] == [(0, 5), (5, 11), (11, 17)]
    assert tasks[0][0].lr == TRAINING.lr and [task.member for task in tasks[1]] == list(range(members))
    copies = {task.member: task.parent for task in tasks[1] if task.parent != task.member}
    lost = {one.member for one in before if one.diverged}
    assert lost <= set(copies) and len(copies) <= max(plan.replaced, len(lost)) + plan.replaced
    for member, parent in copies.items():
        assert parent not in copies and standing(before[parent]) >= standing(before[member])
        assert tasks[1][member].swap == plan.swap_in(1) and tasks[1][member].lr > 0
    assert exploring.tasks(1, before) == tasks[1]
