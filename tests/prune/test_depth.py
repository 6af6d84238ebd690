import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kezuri.calibrate.run import Sample
from kezuri.core.errors import RecipeError, UsageError
from kezuri.core.seeds import derive
from kezuri.data import from_tensors
from kezuri.model.depth import Block, Blocks
from kezuri.prune.depth import Loss, Similarity, Taylor, count_blocks, least_blocks

ALL = Sample(batches=None, batch_size=8)


class Turn(nn.Module):
    """Turns (a, b) by an angle and stretches it, which cosines do not see."""

    def __init__(self, degrees, stretch=1.0):
        super().__init__()
        angle = torch.deg2rad(torch.tensor(float(degrees)))
        self.turn = stretch * torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)

    def forward(self, x):
        return torch.einsum("ij,bj...->bi...", self.turn, x)


@pytest.fixture
def part():
    draw = torch.Generator().manual_seed(0)
    return from_tensors((torch.randn(40, 2, 1, 1, generator=draw), torch.arange(40) % 2), validation=8).train


def head():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [nn.Flatten(), nn.Linear(2, 2)]


def test_similarity_is_one_less_the_cosine_of_the_angle(part):
    model = nn.Sequential(Turn(60, 3.0), Turn(0, 0.2), Turn(180), *head())
    assert Similarity()(model, ["0", "1", "2"], part, ALL) == pytest.approx(
        {"0": 0.5, "1": 0.0, "2": 2.0}, abs=1e-6
    )


def test_a_block_that_runs_twice_is_scored_over_both(part):
    turn = Turn(60)
    model = nn.Sequential(turn, Turn(30), turn, *head())
    assert Similarity()(model, ["0"], part, ALL)["0"] == pytest.approx(0.5, abs=1e-6)
    alone = nn.Sequential(Turn(60), Turn(30), Turn(60), *head())
    both = [batch_change(alone, batch, [0, 2]) for batch in batches(part)]
    expected = sum(change**2 for change in both) / len(both)
    assert Taylor()(model, ["0"], part, ALL)["0"] == pytest.approx(expected, rel=1e-4)


def batches(part):
    return list(part.batches(8, seed=derive(0, "blocks")))


def batch_change(model, batch, at):
    """The gradient behind some modules times what leaving each out changes there, by hand."""
    x, change = batch.images, 0.0
    outputs, given = [], []
    for index, module in enumerate(model):
        if index in at:
            given.append(x.detach())
        x = module(x)
        if index in at:
            x = x.detach().requires_grad_() if not x.requires_grad else x
            x.retain_grad()
            outputs.append(x)
    F.cross_entropy(x, batch.targets).backward()
    for output, before in zip(outputs, given, strict=True):
        change += float((output.grad * (before - output.detach())).sum())
    return change


def test_taylor_is_the_squared_first_order_change_of_the_loss(part):
    model = nn.Sequential(Turn(20, 1.5), Turn(40), *head())
    changes = [batch_change(model, batch, [1]) for batch in batches(part)]
    expected = sum(change**2 for change in changes) / len(changes)
    assert expected > 0
    assert Taylor()(model, ["1"], part, ALL)["1"] == pytest.approx(expected, rel=1e-4)


class Written(Turn):
    """Writes its answer over its input."""

    def forward(self, x):
        return x.copy_(super().forward(x))


def test_what_is_done_in_place_within_and_behind_a_block_changes_no_score(part):
    plain = nn.Sequential(Turn(60), Turn(40), nn.ReLU(), *head())
    inplace = nn.Sequential(Written(60), Turn(40), nn.ReLU(inplace=True), *head())
    assert Similarity()(inplace, ["0", "1"], part, ALL) == Similarity()(plain, ["0", "1"], part, ALL)
    behind = nn.Sequential(*plain[:2], nn.ReLU(inplace=True), *plain[3:])
    assert Taylor()(behind, ["0", "1"], part, ALL) == Taylor()(plain, ["0", "1"], part, ALL)


def test_loss_is_what_skipping_the_block_costs(part):
    model = nn.Sequential(Turn(70), Turn(20), *head())
    batch = next(part.batches(100))
    images, targets = batch.images, batch.targets

    def loss(*modules):
        return float(F.cross_entropy(nn.Sequential(*modules)(images), targets).detach())

    def wrong(*modules):
        return float((nn.Sequential(*modules)(images).argmax(1) != targets).float().mean())

    first, second, *rest = model
    scores = Loss()(model, ["0", "1"], part, ALL)
    assert scores["0"] == pytest.approx(loss(second, *rest) - loss(*model), rel=1e-4)
    assert scores["1"] == pytest.approx(loss(first, *rest) - loss(*model), rel=1e-4)
    fell = Loss(of="accuracy")(model, ["0", "1"], part, ALL)
    assert fell["0"] == pytest.approx(wrong(second, *rest) - wrong(*model))
    with pytest.raises(RecipeError, match="change of 'loss' or 'accuracy', got 'speed'"):
        Loss(of="speed")


def test_no_more_batches_than_asked_for_are_looked_at(part):
    seen = []

    class Counting(nn.Module):
        def forward(self, x):
            seen.append(len(x))
            return x

    model = nn.Sequential(Counting(), Turn(20), Turn(30), *head())
    Loss()(model, ["1", "2"], part, Sample(batches=2, batch_size=4))
    assert seen == [4] * 6


BLOCKS = Blocks((*(Block(name, 1, None) for name in "abc"), Block("d", 1, "protected")))


@pytest.mark.parametrize(("drop", "count"), [(1, 1), (3, 3), (0.01, 1), (1 / 3, 1), (0.34, 2), (1.0, 3)])
def test_a_fraction_is_of_the_blocks_that_may_go(drop, count):
    assert count_blocks(BLOCKS, drop) == count


@pytest.mark.parametrize("drop", [0, -1, 0.0, 1.1, True, float("nan")])
def test_odd_numbers_of_blocks_are_refused(drop):
    with pytest.raises(UsageError, match="drop is a number of blocks"):
        count_blocks(BLOCKS, drop)


def test_too_many_blocks_are_refused_and_those_that_stay_named():
    with pytest.raises(
        UsageError, match=r"asks for 4 blocks, but 3 may go; these must stay: d \(protected\)$"
    ):
        count_blocks(BLOCKS, 4)
    with pytest.raises(UsageError, match="asks for 1 block, but none may go: none was found"):
        count_blocks(Blocks(()), 0.5)


def test_the_least_go_first_and_of_equals_the_later():
    assert least_blocks({"a": 2.0, "b": 1.0, "c": 1.0, "d": -1.0}, 3) == ["d", "c", "b"]
