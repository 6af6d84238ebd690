import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kezuri.core.errors import DataError, ShapeError, UnknownName, UsageError
from kezuri.data import from_tensors
from kezuri.quantization.palette import Palette, cluster, nearest, palettize
from kezuri.train.evaluate import evaluate
from kezuri.train.fit import fit
from kezuri.train.hooks import Hook
from kezuri.train.optimizers import SGD
from kezuri.train.training import Training


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(128, 4),
    )


def patterns():
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(320) % 4
    images = torch.randn(4, 1, 8, 8, generator=generator)[labels]
    images = images + torch.randn(320, 1, 8, 8, generator=generator)
    return from_tensors((images, labels), validation=64, name="patterns")


@given(st.integers(1, 400), st.integers(1, 8), st.floats(0, 0.9), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_few_values_and_each_weight_has_the_nearest(count, bits, sparsity, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(count, 2, generator=generator)
    weight[torch.rand(weight.shape, generator=generator) < sparsity] = 0
    found = palettize({"w": weight}, bits)
    palette, values = found.palettes["w"], found.state()["w"]
    assert len(palette.centroids) <= 2**bits
    assert torch.equal(values == 0, (weight == 0) | (palette.codes == -1))
    assert torch.equal(palette.codes == -1, weight == 0)
    if not len(palette.centroids):
        return
    assert torch.equal(palette.centroids, palette.centroids.unique(sorted=True))
    assert palette.codes[palette.codes >= 0].unique().numel() == len(palette.centroids)
    apart = (weight[..., None].double() - palette.centroids.double()).abs().amin(-1)
    off = (weight.double() - values.double()).abs()
    assert torch.equal(off[weight != 0], apart[weight != 0])
    again = palettize({"w": weight}, bits).palettes["w"]
    assert torch.equal(again.centroids, palette.centroids)
    assert torch.equal(again.codes, palette.codes)


@given(st.integers(1, 256), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_few_enough_values_are_kept_exactly(distinct, seed):
    dice = np.random.default_rng(seed)
    values = dice.normal(size=distinct).astype(np.float32)
    weight = torch.from_numpy(dice.choice(values, size=(20, 30)))
    assert torch.equal(palettize({"w": weight}, 8).state()["w"], weight)


def test_centroids_are_means_and_the_best_there_are_for_small_sets():
    dice = np.random.default_rng(3)
    values = np.concatenate([dice.normal(mean, 0.05, 5) for mean in (-2, 0.5, 3)]).astype(np.float32)
    found = cluster(values, 3)
    labels = nearest(values, found)
    assert found == pytest.approx([values[labels == label].mean() for label in range(3)], abs=1e-6)
    cost = ((values - found[labels]) ** 2).sum()
    ordered = np.sort(values)
    cuts = itertools.combinations(range(1, len(values)), 2)
    best = min(sum(((part - part.mean()) ** 2).sum() for part in np.split(ordered, cut)) for cut in cuts)
    assert cost == pytest.approx(best, rel=1e-4)


def test_the_first_centroids_are_spread_evenly_over_the_range():
    # Han et al., 2016, section 3.2: so that the rare large weights keep a centroid
    values = np.concatenate([np.linspace(-0.1, 0.1, 1000), [5.0]]).astype(np.float32)
    assert cluster(values, 4).tolist() == pytest.approx([0.0, 5.0], abs=1e-6)


def test_a_model_is_left_alone_and_its_other_tensors_are_as_they_were():
    model = net()
    before = copy.deepcopy(model.state_dict())
    found = palettize(model, {"0.weight": 3, "7.weight": 2})
    assert {name: len(palette.centroids) for name, palette in found.palettes.items()} == {
        "0.weight": 8,
        "7.weight": 4,
    }
    state = found.state()
    assert state.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    changed = [name for name, value in state.items() if not torch.equal(value, before[name])]
    assert sorted(changed) == ["0.weight", "7.weight"]
    with torch.no_grad():
        model[3].bias.add_(1)  # what was taken does not follow the model
    assert torch.equal(found.state()["3.bias"], before["3.bias"])
    model.load_state_dict(state)


def test_a_weight_with_two_names_has_one_palette():
    first, second = nn.Linear(20, 20), nn.Linear(20, 20)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    found = palettize(model, 3)
    assert list(found.palettes) == ["0.weight"]
    assert found.same == {"1.weight": "0.weight"}
    assert found.state()["1.weight"] is found.state()["0.weight"] or torch.equal(
        found.state()["1.weight"], found.state()["0.weight"]
    )
    assert found.state().keys() == model.state_dict().keys()


def test_mistakes_are_answered():
    model = net()
    with pytest.raises(UnknownName, match=r"palette named '0\.weigth' .*did you mean '0\.weight'"):
        palettize(model, {"0.weigth": 3})
    with pytest.raises(UnknownName, match=r"named '1\.weight'"):
        palettize(model, {"1.weight": 3})
    for bits in (0, 9):
        with pytest.raises(UsageError, match=f"bits are from 1 to 8, got {bits} for 0.weight"):
            palettize(model, bits)
    with pytest.raises(DataError, match="w holds values that are not finite"):
        palettize({"w": torch.full((3, 3), torch.inf)}, 3)
    with pytest.raises(UsageError, match="w is a list"):
        palettize({"w": [1.0]}, 3)
    codes = torch.zeros(3, 3, dtype=torch.int16)
    for bad in (codes + 1, codes - 2):
        with pytest.raises(ShapeError, match="codes go from -1 to 0"):
            Palette(torch.zeros(1), bad)
    with pytest.raises(ShapeError, match=r"codes are int16.*int64"):
        Palette(torch.zeros(1), codes.long())
    with pytest.raises(ShapeError, match=r"row of float32, got torch\.float64"):
        Palette(torch.zeros(1).double(), codes)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, hook: Hook, count: int) -> None:
    for step in range(count):
        hook.before_forward(model, step)
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(16, 1, 8, 8)), torch.arange(16) % 4).backward()
        hook.after_backward(model, optimizer, step)
        optimizer.step()
        hook.after_step(model, optimizer, step)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_weights_that_share_a_centroid_stay_equal_and_zeros_stay_zero(make) -> None:
    model = net()
    with torch.no_grad():
        for layer in (model[3], model[7]):
            layer.weight[layer.weight.abs() < layer.weight.abs().median()] = 0
    palettes = palettize(model, 3)
    optimizer = make(model.parameters())
    steps(model, optimizer, Hook(), 2)  # momentum from before is what would move zeros
    model.load_state_dict(palettes.state())
    steps(model, optimizer, palettes.hook(), 5)
    after = palettes.refreshed(model)
    for name, palette in after.palettes.items():
        assert torch.equal(palette.codes, palettes.palettes[name].codes)
        assert not torch.equal(palette.centroids, palettes.palettes[name].centroids)
        assert torch.equal(after.state()[name], model.state_dict()[name])
        assert torch.equal(palette.values() == 0, palettes.palettes[name].codes == -1)


@pytest.mark.parametrize("gradient", ["sum", "mean"])
def test_a_centroids_gradient_is_that_of_its_weights(gradient) -> None:
    layer = nn.Linear(6, 5, bias=False)
    with torch.no_grad():
        layer.weight[0] = 0
    palettes = palettize(layer, 2)
    layer.load_state_dict(palettes.state())
    palette = palettes.palettes["weight"]
    rows = torch.randn(9, 6)
    # what autograd says of the centroids themselves
    centroids = palette.centroids.clone().requires_grad_()
    weight = torch.cat([centroids, torch.zeros(1)])[palette.codes.long()]
    (F.linear(rows, weight) - 1).square().sum().backward()
    (layer(rows) - 1).square().sum().backward()
    palettes.hook(gradient).after_backward(layer, torch.optim.SGD(layer.parameters()), 0)
    for code, wanted in enumerate(centroids.grad):
        members = palette.codes == code
        wanted = wanted / members.sum() if gradient == "mean" else wanted
        assert layer.weight.grad[members].unique().numel() == 1
        assert layer.weight.grad[members][0] == pytest.approx(float(wanted), rel=1e-4, abs=1e-5)
    assert not layer.weight.grad[palette.codes == -1].any()


@pytest.mark.parametrize(("gradient", "lr"), [("mean", 0.05), ("sum", 0.002)])
def test_training_nothing_but_centroids_brings_the_loss_down(gradient, lr) -> None:
    data, model = patterns(), net()
    fit(model, data, Training(epochs=6, lr=0.1, batch_size=32), seed=0, device="cpu")
    palettes = palettize(model, 1)
    model.load_state_dict(palettes.state())
    rough = evaluate(model, data.validation, device="cpu")
    weights = [model[place].weight for place in (0, 3, 7)]  # of two values each: six numbers are trained
    training = Training(epochs=6, lr=lr, batch_size=32, optimizer=SGD(weight_decay=0.0))
    fit(model, data, training, seed=1, device="cpu", hooks=[palettes.hook(gradient)], parameters=weights)
    tuned = palettes.refreshed(model)
    assert all(len(palette.centroids) == 2 for palette in tuned.palettes.values())
    fine = evaluate(model, data.validation, device="cpu")
    assert fine.loss < 0.9 * rough.loss


def test_a_training_of_other_weights_is_refused() -> None:
    model = net()
    palettes = palettize(model, 2)
    with pytest.raises(UsageError, match=r"0\.weight does not have its palette's values: load"):
        palettes.hook().before_forward(model, 0)
    with pytest.raises(UsageError, match="gradient is one of sum, mean; got 'max'"):
        palettes.hook("max")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"palette for 0\.weight, but the model has no such parameter"):
        palettes.hook().before_forward(nn.Linear(2, 2), 0)
    with pytest.raises(ShapeError, match=r"weights of 0\.weight that share a centroid differ"):
        palettes.refreshed(model)
    with pytest.raises(ShapeError, match="does not have the tensors"):
        palettes.refreshed(nn.Linear(2, 2))
