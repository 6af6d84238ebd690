from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kezuri.core.errors import ShapeError, UsageError
from kezuri.quantization.affine import Grid
from kezuri.quantization.equalization import Link, absorb_, corrected_bias, equalize_, relu_mean
from kezuri.quantization.roundings.nearest import Nearest


def uneven(*layers, seed=0):
    """A float64 network of ReLUs whose channels differ a thousandfold, and its links."""
    generator = torch.Generator().manual_seed(seed)
    links, modules = [], []
    for layer in layers:
        layer = layer.double()
        with torch.no_grad():
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
            wild = torch.logspace(-1.5, 1.5, len(layer.weight))[
                torch.randperm(len(layer.weight), generator=generator)
            ]
            layer.weight.mul_(wild.view(-1, *[1] * (layer.weight.dim() - 1)))
            if layer.bias is not None:
                layer.bias.copy_(torch.randn(len(layer.bias), generator=generator))
        links.append(Link(layer.weight, layer.bias, getattr(layer, "groups", 1)))
        if isinstance(layer, nn.Linear) and modules and not isinstance(modules[-2], nn.Linear):
            modules.append(nn.Flatten())
        modules += [layer, nn.ReLU()]
    return nn.Sequential(*modules[:-1]), links


def chains():
    return {
        "linear": ([nn.Linear(5, 8), nn.Linear(8, 3)], (4, 5)),
        "convolutions": ([nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3, bias=False)], (2, 3, 8, 8)),
        "sequence": ([nn.Conv1d(3, 6, 3), nn.Conv1d(6, 4, 1)], (2, 3, 8)),
        "depthwise between": (
            [nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=6, padding=1), nn.Conv2d(6, 4, 1)],
            (2, 3, 8, 8),
        ),
        "depthwise widening": (
            [nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 4, 1)],
            (2, 3, 8, 8),
        ),
        "grouped": ([nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3, groups=2)], (2, 3, 8, 8)),
        "flattened": ([nn.Conv2d(3, 6, 3), nn.Linear(6 * 4, 5)], (2, 3, 4, 4)),
        "four": ([nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 3)], (4, 5)),
    }


@pytest.fixture(params=list(chains()))
def chain(request):
    layers, shape = chains()[request.param]
    network, links = uneven(*layers)
    return network, links, torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()


def writing(link):
    return link.weight.detach().abs().flatten(1).amax(1)


def reading(link, channels):
    """Largest magnitude by which each channel is read, weight by weight."""
    largest = torch.zeros(channels, dtype=torch.float64)
    outputs, inputs = link.weight.shape[:2]
    repeats = inputs * link.groups // channels
    for output in range(outputs):
        group = output // (outputs // link.groups)
        for place in range(inputs):
            channel = (group * inputs + place) // repeats
            largest[channel] = max(largest[channel], link.weight[output, place].detach().abs().max())
    return largest


def test_the_function_stays_and_the_ranges_meet(chain):
    network, links, x = chain
    before = network(x).detach()
    first = writing(links[0])
    equalize_(links)
    after = network(x).detach()
    assert float((after - before).abs().max() / before.abs().max()) < 1e-6
    for one, other in pairwise(links):
        torch.testing.assert_close(writing(one), reading(other, len(one.weight)), rtol=1e-4, atol=1e-6)
    assert writing(links[0]).max() / writing(links[0]).min() < first.max() / first.min()


def test_says_what_the_outputs_are_multiplied_with(chain):
    network, links, x = chain
    outputs = []
    hooks = [
        m.register_forward_hook(lambda m, i, o: outputs.append(o.detach()))
        for m in network
        if hasattr(m, "weight")
    ]
    network(x)
    before, factors = outputs[:], equalize_(links)
    outputs.clear()
    network(x)
    for factor, old, new in zip(factors, before, outputs, strict=False):
        torch.testing.assert_close(new, old * factor.view(1, -1, *[1] * (old.dim() - 2)))
    assert len(factors) == len(links) - 1
    for hook in hooks:
        hook.remove()


def test_two_layers_are_as_in_the_paper():
    first, second = torch.tensor([[4.0, -1.0], [0.5, 0.25]]), torch.tensor([[1.0, -8.0], [-0.25, 2.0]])
    bias = torch.tensor([2.0, 1.0])
    factors = equalize_([Link(first, bias), Link(second)])[0]
    torch.testing.assert_close(factors, torch.tensor([0.5, 4.0]))  # 1/s = √(r1·r2)/r1
    torch.testing.assert_close(first, torch.tensor([[2.0, -0.5], [2.0, 1.0]]))
    torch.testing.assert_close(second, torch.tensor([[2.0, -2.0], [-0.5, 0.5]]))
    torch.testing.assert_close(bias, torch.tensor([1.0, 4.0]))


def test_dead_channels_stay():
    first, second = torch.tensor([[0.0, 0.0], [1.0, 2.0]]), torch.tensor([[3.0, 0.0]])
    factors = equalize_([Link(first), Link(second)])[0]
    assert torch.equal(factors, torch.ones(2))
    assert torch.equal(first, torch.tensor([[0.0, 0.0], [1.0, 2.0]]))


def test_one_scale_for_all_loses_far_less_afterwards():
    """What it is for: the signal of small channels survives eight bits."""
    network, links = uneven(nn.Conv2d(8, 32, 3), nn.Conv2d(32, 32, 3, groups=32), nn.Conv2d(32, 8, 1))
    x = torch.randn(4, 8, 10, 10, generator=torch.Generator().manual_seed(1)).double()

    def noise():
        exact, grid = network(x).detach(), Grid(8, symmetric=True)
        kept = [link.weight.detach().clone() for link in links]
        for link in links:
            scale, zero_point = grid.fit(
                link.weight.detach().float().min(), link.weight.detach().float().max()
            )
            link.weight.data.copy_(Nearest()(link.weight.detach(), scale, zero_point, grid))
        off = network(x).detach() - exact
        for link, weight in zip(links, kept, strict=True):
            link.weight.data.copy_(weight)
        return float(off.square().mean())

    before = noise()
    equalize_(links)
    assert noise() < before / 3


def test_a_high_bias_goes_to_the_next_layer():
    generator = torch.Generator().manual_seed(0)
    first, second = nn.Linear(4, 3), nn.Linear(3, 2)
    mean, std = torch.tensor([5.0, 1.0, -2.0]), torch.tensor([1.0, 1.0, 0.1])
    with torch.no_grad():
        first.weight.copy_(torch.randn(3, 4, generator=generator))
        first.weight.div_(first.weight.norm(dim=1, keepdim=True)).mul_(std.view(-1, 1))
        first.bias.copy_(mean)
    x = torch.randn(20_000, 4, generator=generator)
    before, inner = second(first(x).relu()), first(x).relu().amax(0)
    moved = absorb_(Link(first.weight, first.bias), Link(second.weight, second.bias), mean, std)
    torch.testing.assert_close(moved, torch.tensor([2.0, 0.0, 0.0]))
    torch.testing.assert_close(first(x).relu().amax(0), inner - moved)
    same = (second(first(x).relu()) - before).abs().amax(1) < 1e-5
    assert same.float().mean() > 0.998
    assert not same.all()


def test_convolutions_and_groups_take_in_a_bias_too():
    for second in (nn.Conv2d(6, 4, 3), nn.Conv2d(6, 4, 3, groups=2), nn.Conv2d(6, 6, 3, groups=6)):
        network, links = uneven(nn.Conv2d(3, 6, 1), second)
        with torch.no_grad():
            links[0].bias.fill_(1e4)  # nothing is below the ReLU
        x = torch.randn(2, 3, 5, 5).double()
        before = network(x).detach()
        absorb_(*links, torch.full((6,), 1e4).double(), torch.full((6,), 2e3).double())
        torch.testing.assert_close(network(x).detach(), before)


@settings(max_examples=50, deadline=None)
@given(st.floats(-5, 5), st.floats(0.01, 4), st.sampled_from([None, 1.0, 6.0]))
def test_the_mean_behind_a_relu_is_the_integral(mean, std, ceiling):
    x = torch.linspace(-12, 12, 40_001).double()
    density = torch.exp(-x.square() / 2) / (2 * torch.pi) ** 0.5
    values = (mean + std * x).clamp(min=0, max=ceiling)
    ours = relu_mean(torch.tensor(mean).double(), torch.tensor(std).double(), ceiling)
    assert float(ours) == pytest.approx(float(torch.trapezoid(values * density, x)), abs=1e-6)


def test_without_spread_the_mean_is_the_value():
    mean = torch.tensor([-1.0, 0.0, 7.0])
    assert relu_mean(mean, torch.zeros(3)).tolist() == [0, 0, 7]
    assert relu_mean(mean, torch.zeros(3), 6.0).tolist() == [0, 0, 6]
    assert float(relu_mean(torch.tensor(0.0), torch.tensor(1.0))) == pytest.approx((2 * torch.pi) ** -0.5)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 4, 3),
        nn.Conv2d(6, 4, 3, groups=2, bias=False),
        nn.Conv2d(6, 6, 3, groups=6),
        nn.Linear(6, 4),
    ],
    ids=["convolution", "grouped, no bias", "depthwise", "linear"],
)
def test_a_corrected_bias_takes_the_mean_error_away(layer):
    generator = torch.Generator().manual_seed(0)
    mean, std = torch.randn(6, generator=generator), torch.rand(6, generator=generator) + 0.5
    shape = (4000, 6, 3, 3) if layer.weight.dim() == 4 else (20_000, 6)
    wide = [1, 6, *[1] * (len(shape) - 2)]
    x = (torch.randn(shape, generator=generator) * std.view(wide) + mean.view(wide)).relu()
    weight, exact, grid = layer.weight.detach().clone(), layer(x).detach(), Grid(3, symmetric=True)
    rounded = Nearest()(weight, *grid.fit(weight.min(), weight.max()), grid)
    link = Link(weight, None if layer.bias is None else layer.bias.detach(), getattr(layer, "groups", 1))

    def mean_error(bias):
        run = nn.Linear(6, 4) if weight.dim() == 2 else nn.Conv2d(6, len(weight), 3, groups=link.groups)
        run.weight.data, run.bias.data = rounded, bias
        off = run(x).detach() - exact
        return float(off.transpose(0, 1).flatten(1).mean(1).abs().max())

    empirical = x.transpose(0, 1).flatten(1).mean(1)
    zero = torch.zeros(len(weight)) if link.bias is None else link.bias
    assert mean_error(corrected_bias(link, rounded, relu_mean(mean, std))) < 0.2 * mean_error(zero)
    if weight.dim() == 2:
        assert mean_error(corrected_bias(link, rounded, empirical)) < 1e-5


def test_what_does_not_fit_is_refused():
    weight, bias = torch.ones(4, 3), torch.ones(4)
    with pytest.raises(UsageError, match="got 1"):
        equalize_([Link(weight)])
    with pytest.raises(ShapeError, match="reads 5 channels, got 4"):
        equalize_([Link(weight), Link(torch.ones(2, 5))])
    with pytest.raises(ShapeError, match="reads 8 channels, got 4"):
        equalize_([Link(weight), Link(torch.ones(2, 8, 3, 3))])
    with pytest.raises(UsageError, match="none"):
        absorb_(Link(weight, bias), Link(torch.ones(2, 4)), bias, bias)
    with pytest.raises(ShapeError, match=r"mean \(3,\)"):
        absorb_(Link(weight, bias), Link(torch.ones(2, 4), torch.ones(2)), torch.ones(3), bias)
    with pytest.raises(ShapeError, match=r"\(4, 2\)"):
        corrected_bias(Link(weight), torch.ones(4, 2), torch.ones(3))
    with pytest.raises(ShapeError, match="got 2"):
        corrected_bias(Link(weight), weight, torch.ones(2))
    with pytest.raises(ShapeError, match=r"bias \(3,\)"):
        Link(weight, torch.ones(3))
    with pytest.raises(ShapeError, match="3 group"):
        Link(weight, groups=3)
