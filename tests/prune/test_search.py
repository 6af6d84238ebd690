"""The search for masks: what it finds, and that it finds the same after a stop."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from kezuri.core.errors import Interrupted, UsageError
from kezuri.data.parts import TensorPart
from kezuri.model.coupling import couple
from kezuri.model.proof import cut
from kezuri.prune import L1, Channel, Masks, Weight
from kezuri.prune.fitness import MaskFitness
from kezuri.prune.mask_space import mask_space, with_growth
from kezuri.prune.problem import FewestWeights, FixedSparsity
from kezuri.prune.scope import Global
from kezuri.prune.search import Searched, search_masks
from kezuri.prune.searchers.genetic import Genetic
from kezuri.prune.searchers.magnitude import Magnitude
from kezuri.prune.searchers.random import RandomSearch
from kezuri.prune.select import select_masks
from kezuri.train import evaluate

FITNESS = MaskFitness(images=120, race=(40,))


@pytest.fixture(scope="module")
def part() -> TensorPart:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (240,), generator=generator)
    centres = torch.randn(3, 1, 4, 4, generator=generator)
    images = centres[labels] + 0.7 * torch.randn(240, 1, 4, 4, generator=generator)
    return TensorPart(images, labels, classes=3)


@pytest.fixture(scope="module")
def model(part: TensorPart) -> nn.Module:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 3))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    batch = next(iter(part.batches(240)))
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(batch.images), batch.targets).backward()
        optimizer.step()
    net.zero_grad(set_to_none=True)
    return net.eval()


def search(model: nn.Module, part: TensorPart, **changes: object) -> Searched:
    settings: dict[str, object] = {
        "problem": FixedSparsity(0.9),
        "searcher": Genetic(population=12),
        "space": mask_space(model),
        "fitness": FITNESS,
        "evaluations": 240,
        "device": "cpu",
    }
    return search_masks(model, part, **(settings | changes))  # type: ignore[arg-type]


def test_a_search_beats_what_the_criterion_alone_keeps(model: nn.Module, part: TensorPart) -> None:
    magnitude = search(model, part, searcher=Magnitude())
    assert magnitude.evaluations == 1
    chosen = select_masks(model, 0.9, criterion=L1(), granularity=Weight(), scope=Global(normalize="none"))
    assert all(torch.equal(magnitude.masks[name], chosen.masks[name]) for name in chosen.masks)
    found = search(model, part)
    assert found.evaluations == 240
    assert found.sparsity == magnitude.sparsity == chosen.sparsity
    assert found.best.fitness.accuracy > magnitude.best.fitness.accuracy
    masked = nn.Sequential(*model)
    state = {name: tensor.clone() for name, tensor in masked.state_dict().items()}
    found.masks.apply_(masked)
    assert evaluate(masked, part, device="cpu").accuracy == found.best.fitness.accuracy
    masked.load_state_dict(state)


def test_the_model_stays_as_it_is(model: nn.Module, part: TensorPart) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    search(model, part, searcher=RandomSearch(batch=8), evaluations=16)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_a_race_leaves_behind_never_wins(model: nn.Module, part: TensorPart) -> None:
    found = search(model, part, searcher=RandomSearch(batch=16), evaluations=64)
    assert found.history[-1].images < 64 * 120
    assert [row.evaluations for row in found.history] == [16, 32, 48, 64]
    assert found.best.fitness.images == len(part)


class Stopping:
    """Presses Ctrl-C after some generations."""

    def __init__(self, after: int) -> None:
        self.left = after

    def start(self, task: str, *, total: int, done: int) -> None:
        pass

    def advance(self, steps: int, figures: object) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)

    def done(self) -> None:
        pass


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C is heard, also where a shell started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("searcher", [Genetic(population=12), RandomSearch(batch=8)])
def test_a_stopped_search_goes_on_to_the_identical_result(
    model: nn.Module, part: TensorPart, tmp_path: Path, searcher: Genetic | RandomSearch
) -> None:
    whole = search(model, part, searcher=searcher, evaluations=100)
    for after in (1, 3):
        with pytest.raises(Interrupted, match="of 100 evaluations"):
            search(
                model,
                part,
                searcher=searcher,
                evaluations=100,
                checkpoint=tmp_path / "search",
                progress=Stopping(after),
            )
    resumed = search(model, part, searcher=searcher, evaluations=100, checkpoint=tmp_path / "search")
    assert torch.equal(resumed.best.kept, whole.best.kept)
    assert resumed.best.fitness == whole.best.fitness
    assert resumed.history == whole.history
    with pytest.raises(UsageError, match=r"a different search \(not the same: seed\)"):
        search(model, part, searcher=searcher, evaluations=100, checkpoint=tmp_path / "search", seed=1)


class PressedWhileSaved(RandomSearch):
    """Ctrl-C is pressed when its state is asked for, the first time."""

    pressed: ClassVar[bool] = False

    def begin(self, *args, **settings):
        begun = super().begin(*args, **settings)
        state = begun.state

        def pressing():
            if not PressedWhileSaved.pressed:
                PressedWhileSaved.pressed = True
                signal.raise_signal(signal.SIGINT)
            return state()

        begun.state = pressing
        return begun


@pytest.mark.usefixtures("heard")
def test_ctrl_c_as_the_last_generation_is_saved_is_not_lost(
    model: nn.Module, part: TensorPart, tmp_path: Path
) -> None:
    settings = {"searcher": PressedWhileSaved(batch=8), "evaluations": 8, "checkpoint": tmp_path / "search"}
    with pytest.raises(Interrupted, match="after 8 of 8 evaluations"):
        search(model, part, **settings)
    assert search(model, part, **settings).evaluations == 8


def test_the_fewest_weights_that_hold_a_floor(model: nn.Module, part: TensorPart) -> None:
    space = mask_space(model)
    whole = evaluate(model, part, device="cpu").accuracy
    problem = FewestWeights(floor=whole - 0.05, sparsity=0.5, total=space.units)
    found = search(model, part, problem=problem, space=space, evaluations=480)
    assert found.best.fitness.accuracy >= problem.floor
    assert found.sparsity > 0.6
    weights = [one.fitness.weights for one in found.archive]
    accuracies = [one.fitness.accuracy for one in found.archive]
    assert weights == sorted(weights)
    assert accuracies == sorted(accuracies)
    assert len(set(weights)) == len(weights)


def test_channels_that_were_searched_can_be_cut(model: nn.Module, part: TensorPart) -> None:
    couplings = couple(model, torch.zeros(2, 1, 4, 4))
    space = mask_space(model, granularity=Channel(), couplings=couplings)
    found = search(model, part, space=space, problem=FixedSparsity(0.7), evaluations=60)
    done = cut(model, couplings, found.kept_channels, torch.zeros(2, 1, 4, 4))
    assert done.proof.error < 1e-5
    assert evaluate(done.model, part, device="cpu").accuracy == found.best.fitness.accuracy


def test_removed_weights_stay_removed(model: nn.Module, part: TensorPart) -> None:
    before = select_masks(model, 0.5, criterion=L1(), granularity=Weight(), scope=Global()).masks
    found = search(model, part, space=mask_space(model, masks=before), problem=FixedSparsity(0.8))
    assert all(bool((before[name] | ~mask).all()) for name, mask in found.masks.items())
    assert found.sparsity == pytest.approx(0.8, abs=0.002)


def test_growth_is_where_the_loss_pulls(model: nn.Module, part: TensorPart) -> None:
    space = mask_space(model)
    grown = with_growth(space, model, part, sparsity=0.9, seed=0)
    assert grown.growth is not None and grown.growth.shape == (space.units,)
    assert bool((grown.growth >= 0).all()) and float(grown.growth.max()) > 0
    assert all(p.grad is None for p in model.parameters())
    found = search(model, part, space=grown, searcher=replace(Genetic(population=12), grow="gradient"))
    assert isinstance(found.masks, Masks)


def test_a_search_without_evaluations_is_refused(model: nn.Module, part: TensorPart) -> None:
    with pytest.raises(UsageError, match="at least one evaluation, got 0"):
        search(model, part, evaluations=0)
