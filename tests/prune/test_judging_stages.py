"""The fast ways to judge: that they say what the plain one says, whoever is asked for together and before."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kezuri.core.errors import ModelError, ShapeError
from kezuri.data.parts import TensorPart
from kezuri.model.coupling import couple
from kezuri.model.zoo import zoo
from kezuri.prune.criteria.norm import L1
from kezuri.prune.granularity import Channel, Weight
from kezuri.prune.judging import PlainWay, Sheet, batch_size_for, largest_activation
from kezuri.prune.judging_choice import FastestWay, way_to_judge
from kezuri.prune.judging_stages import StagedWay
from kezuri.prune.judging_vmap import VmapWay
from kezuri.prune.scope import Global
from kezuri.prune.select import contest
from kezuri.prune.space import Space

CPU = torch.device("cpu")
NETS = {
    "lenet5": ((1, 16, 16), lambda: zoo["lenet5"](classes=4, channels=1, image_size=16)),
    "lenet300_100": ((1, 6, 6), lambda: zoo["lenet300_100"](classes=4, channels=1, image_size=6)),
    "resnet8": ((3, 12, 12), lambda: zoo["resnet8"](classes=4, width=0.25)),
}


def made(name):
    shape, make = NETS[name]
    torch.manual_seed(0)
    model = make()
    model(torch.randn(16, *shape))
    return shape, model.eval()


def space_of(model, granularity=None, couplings=None):
    field = contest(model, criterion=L1(), granularity=granularity or Weight(), couplings=couplings)
    return Space.of(field, dict(model.named_parameters()), scope=Global())


def masks(space, count, generator, share=0.1):
    """Masks of which each differs from the one before in a group or two."""
    kept = [torch.rand(space.units, generator=generator) < 0.7]
    groups = torch.arange(len(space.lengths)).repeat_interleave(torch.tensor(space.lengths))
    while len(kept) < count:
        group = int(torch.randint(len(space.lengths), (), generator=generator))
        flips = (torch.rand(space.units, generator=generator) < share) & (groups == group)
        kept.append(kept[-1] ^ flips)
    return torch.stack(kept)


def sheet_of(shape, name=0, *, count=21, size=8):
    generator = torch.Generator().manual_seed(name)
    images = torch.randn(count, *shape, generator=generator)
    labels = torch.randint(4, (count,), generator=generator)
    return Sheet(TensorPart(images, labels, classes=4), (name,), size, CPU)


def close(found, truth):
    assert torch.equal(found[:, 0], truth[:, 0])
    assert torch.allclose(found[:, 1], truth[:, 1], rtol=1e-4)


@pytest.mark.parametrize("name", NETS)
@torch.inference_mode()
def test_every_way_says_the_same(name):
    shape, model = made(name)
    space, sheet = space_of(model), sheet_of(shape)
    kept = masks(space, 6, torch.Generator().manual_seed(0))
    truth = PlainWay(model, space, CPU).tally(kept, sheet)
    close(StagedWay(model, space, shape, CPU).tally(kept, sheet), truth)
    close(
        VmapWay(model, space, shape, CPU, largest=largest_activation(model, shape)).tally(kept, sheet), truth
    )
    norms = sheet_of(shape, 1, count=40, size=20)
    close(
        StagedWay(model, space, shape, CPU, norms=norms).tally(kept, sheet),
        PlainWay(model, space, CPU, norms=norms).tally(kept, sheet),
    )


@pytest.mark.parametrize("name", ["lenet5", "resnet8"])
@torch.inference_mode()
def test_masks_of_coupled_channels_are_judged_too(name):
    shape, model = made(name)
    couplings = couple(model, torch.zeros(2, *shape))
    space, sheet = space_of(model, Channel(floor=1), couplings), sheet_of(shape)
    kept = masks(space, 5, torch.Generator().manual_seed(1), share=0.4)
    truth = PlainWay(model, space, CPU).tally(kept, sheet)
    close(StagedWay(model, space, shape, CPU).tally(kept, sheet), truth)
    norms = sheet_of(shape, 1, count=40, size=20)
    close(
        StagedWay(model, space, shape, CPU, norms=norms).tally(kept, sheet),
        PlainWay(model, space, CPU, norms=norms).tally(kept, sheet),
    )


@pytest.fixture(scope="module")
def lenet():
    shape, model = made("lenet5")
    return shape, model, space_of(model)


@pytest.fixture(scope="module")
def resnet():
    shape, model = made("resnet8")
    return shape, model, space_of(model)


@pytest.fixture(scope="module")
def ways(lenet, resnet):
    """Of each net, one way that keeps nothing, one that has to forget, and one that keeps all."""
    return {
        name: [
            StagedWay(model, space, shape, CPU, norms=norms, memory=memory) for memory in (0, 60_000, 1 << 29)
        ]
        for name, (shape, model, space) in {"lenet5": lenet, "resnet8": resnet}.items()
        for norms in [sheet_of(shape, 9, count=20, size=20)]
    }


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["lenet5", "resnet8"]), st.integers(1, 2))
def test_what_was_kept_changes_nothing(ways, lenet, resnet, seed, name, which):
    shape, _, space = {"lenet5": lenet, "resnet8": resnet}[name]
    generator = torch.Generator().manual_seed(seed)
    fresh, busy = ways[name][0], ways[name][which]
    kept = masks(space, 7, generator)
    with torch.inference_mode():
        for sheet in (sheet_of(shape, 0), sheet_of(shape, 1), sheet_of(shape, 0)):
            some = torch.randint(7, (int(torch.randint(1, 5, (), generator=generator)),), generator=generator)
            alone = torch.cat([fresh.tally(kept[one : one + 1], sheet) for one in some])
            assert torch.equal(busy.tally(kept[some], sheet), alone)
            assert torch.equal(busy.tally(kept[some.flip(0)], sheet), alone.flip(0))


@torch.inference_mode()
def test_what_comes_before_the_first_difference_runs_once(lenet):
    shape, model, space = lenet
    way, ran = StagedWay(model, space, shape, CPU), []
    stages = way._answering._stages
    for at, stage in enumerate(stages):
        object.__setattr__(stage, "run", noting(stage.run, at, ran))
    kept = masks(space, 1, torch.Generator().manual_seed(0)).repeat(3, 1)
    kept[1, -4:] ^= True  # of the last layer
    sheet = sheet_of(shape, size=30)
    first = [0, 0, 0]  # more rows than the layer has, so in parts of fewer images
    way.tally(kept, sheet)
    assert ran == [*first, 1, 2, 3, 4, 4]
    way.tally(kept, sheet)
    assert ran[8:] == [*first, 1, 2, 3, 4, 4]  # now it is known that these images come again
    way.tally(kept, sheet)
    assert ran[16:] == []
    kept[2, -3:] ^= True
    way.tally(kept, sheet)
    assert ran[16:] == [4]


def noting(run, at, ran):
    def noted(*values):
        ran.append(at)
        return run(*values)

    return noted


class Unfollowed(nn.Module):
    """Decides by the values of a tensor."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(9, 4)

    def forward(self, x):
        answer = self.layer(x.flatten(1))
        return answer * (2.0 if float(answer.sum()) > 1e9 else 1.0)


class OneByOne(Unfollowed):
    """Its program takes batches of the example's size."""

    def forward(self, x):
        return torch.stack([self.layer(image.flatten()) for image in x])


@torch.inference_mode()
def test_a_program_for_batches_of_one_size_is_not_taken():
    model = OneByOne().eval()
    with pytest.raises(ModelError, match="program"):
        StagedWay(model, space_of(model), (1, 3, 3), CPU)


@torch.inference_mode()
def test_a_model_that_cannot_be_followed_is_judged_the_plain_way():
    model = Unfollowed().eval()
    space, sheet = space_of(model), sheet_of((1, 3, 3))
    kept = masks(space, 3, torch.Generator().manual_seed(0))
    with pytest.raises(ModelError):
        way_to_judge("stages", model, space, (1, 3, 3), CPU, norms=None)
    with pytest.raises(ModelError):
        way_to_judge("vmap", model, space, (1, 3, 3), CPU, norms=None)
    way = way_to_judge("auto", model, space, (1, 3, 3), CPU, norms=None)
    assert isinstance(way, PlainWay)
    assert torch.equal(way.tally(kept, sheet), PlainWay(model, space, CPU).tally(kept, sheet))


@torch.inference_mode()
def test_the_fastest_way_is_found_once(lenet):
    shape, model, space = lenet
    ways = {"plain": PlainWay(model, space, CPU), "stages": StagedWay(model, space, shape, CPU)}
    way, sheet = FastestWay(ways), sheet_of(shape)
    kept = masks(space, 3, torch.Generator().manual_seed(0))
    assert way.name == ""
    close(way.tally(kept, sheet), ways["plain"].tally(kept, sheet))
    seconds = dict(way.seconds)
    assert set(seconds) == set(ways)
    assert way.name == min(seconds, key=seconds.get)
    way.tally(kept, sheet)
    assert way.seconds == seconds


def test_batches_are_as_large_as_the_largest_activation_allows(lenet):
    shape, model, _ = lenet
    assert largest_activation(model, shape) == 6 * 12 * 12 * 4
    assert batch_size_for(model, shape, CPU) == (1 << 21) // (6 * 12 * 12 * 4)
    assert batch_size_for(nn.Conv2d(3, 64, 3), (3, 224, 224), CPU) == 8


def test_a_sheet_has_batches_of_nearly_equal_size():
    assert [len(batch.images) for batch in sheet_of((1, 2, 2), count=21, size=8).batches] == [7, 7, 7]
    assert [len(batch.images) for batch in sheet_of((1, 2, 2), count=20, size=8).batches] == [7, 7, 6]


def test_a_space_of_another_model_is_told(lenet):
    shape, model, _ = lenet
    with pytest.raises(ShapeError, match="no such parameter"):
        StagedWay(model, space_of(nn.Sequential(nn.Linear(3, 4))), shape, CPU)
