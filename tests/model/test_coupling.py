import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kezuri.core.errors import ModelError, UsageError
from kezuri.model.coupling import Couplings, couple
from kezuri.model.coupling_rule import rules
from kezuri.model.proof import cut
from kezuri.model.shrink import shrink_
from kezuri.model.zoo import zoo

IMAGE = (3, 12, 12)


def block(inputs: int, outputs: int, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Net(nn.Module):
    """Layers by name, `forward` given as a function."""

    def __init__(self, run, **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor):
        return self.run(self, x)


def head(width: int) -> nn.Linear:
    return nn.Linear(width, 5)


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def residual() -> Net:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        return net.head(torch.flatten(F.adaptive_avg_pool2d(x + net.c(net.b(x)), 1), 1))

    return Net(run, a=block(3, 16), b=block(16, 8), c=block(8, 16), head=head(16))


def concatenated() -> Net:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        return net.head(pooled(net.c(torch.cat([x, net.b(x)], 1))))

    return Net(run, a=block(3, 8), b=block(8, 12), c=block(20, 16), head=head(16))


def concatenated_with_itself() -> Net:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        return net.head(pooled(net.c(net.norm(torch.cat([x, -x], 1)))))

    return Net(run, a=block(3, 8), norm=nn.BatchNorm2d(16), c=block(16, 16), head=head(16))


def depthwise_with_multiplier() -> Net:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(pooled(net.point(net.norm(net.depth(net.a(x))))))

    depth = nn.Conv2d(8, 24, 3, padding=1, groups=8)
    return Net(
        run, a=block(3, 8), depth=depth, norm=nn.BatchNorm2d(24), point=block(24, 16, 1), head=head(16)
    )


def grouped() -> Net:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        return net.head(pooled(x + net.d(net.g(net.b(x)))))

    return Net(
        run, a=block(3, 32, 1), b=block(32, 16, 1), g=block(16, 32, 3, 4), d=block(32, 32, 1), head=head(32)
    )


def flattened() -> Net:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.max_pool2d(net.a(x), 2)
        return net.head(F.relu(net.hidden(x.view(x.size(0), -1))))

    return Net(run, a=block(3, 8), hidden=nn.Linear(8 * 36, 32), head=head(32))


def squeezed_and_excited() -> Net:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        batch, width, _, _ = x.shape
        gate = net.up(F.relu(net.down(pooled(x).view(batch, width)))).sigmoid().view(batch, width, 1, 1)
        return net.head(pooled(net.b(x * gate.expand_as(x))))

    return Net(run, a=block(3, 16), down=nn.Linear(16, 4), up=nn.Linear(4, 16), b=block(16, 8), head=head(8))


def gated_by_chunks() -> Net:
    def run(net: Net, x: Tensor) -> Tensor:
        left, right = net.g(net.a(x)).chunk(2, 1)
        return net.head(pooled(net.b(left * right.sigmoid())))

    return Net(run, a=block(3, 16), g=nn.Conv2d(16, 24, 1), b=block(12, 8), head=head(8))


def gated_by_computed_halves() -> Net:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.g(net.a(x))
        half = x.shape[1] // 2
        return net.head(pooled(net.b(x[:, :half] * x[:, half:].sigmoid())))

    return Net(run, a=block(3, 16), g=nn.Conv2d(16, 24, 1), b=block(12, 8), head=head(8))


def channels_last() -> Net:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x).permute(0, 2, 3, 1)
        x = net.down(F.gelu(net.up(x))).permute(0, 3, 1, 2).contiguous()
        return net.head(pooled(net.b(x)))

    return Net(
        run, a=block(3, 16), up=nn.Linear(16, 24), down=nn.Linear(24, 16), b=block(16, 8), head=head(8)
    )


class Scaled(nn.Module):
    def __init__(self, literal: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(16))
        self.size = 16 if literal else -1

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.view(1, self.size, 1, 1)


def scaled(literal: bool = False) -> nn.Module:
    slope = nn.Sequential(nn.PReLU(16), Scaled(literal), block(16, 8), nn.PReLU())
    return nn.Sequential(block(3, 16), slope, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(8))


def shared_module() -> Net:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.b(net.a(x)))
        return net.head(pooled(F.relu(net.b(x))))

    return Net(run, a=block(3, 16), b=nn.Conv2d(16, 16, 3, padding=1), head=head(16))


def tied_weights() -> nn.Module:
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(432, 12),
        nn.Linear(12, 20),
        nn.ReLU(),
        nn.Linear(20, 12),
        nn.Linear(12, 20),
        head(20),
    )
    model[5].weight = model[2].weight
    return model


def option_a() -> Net:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        padded = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return net.head(pooled(F.max_pool2d(net.c(net.b(x)), 2) + padded))

    return Net(run, a=block(3, 8), b=block(8, 8), c=block(8, 16), head=head(16))


def option_a_with_stated_width() -> Net:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        extra = 16 - x.shape[1]
        padded = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra // 2, extra - extra // 2))
        return net.head(pooled(F.max_pool2d(net.c(net.b(x)), 2) + padded))

    return Net(run, a=block(3, 8), b=block(8, 8), c=block(8, 16), head=head(16))


def u_net() -> Net:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        return net.head(pooled(net.c(torch.cat([x, net.up(F.avg_pool2d(net.b(x), 2))], 1))))

    up = nn.ConvTranspose2d(16, 8, 2, 2, groups=2)
    return Net(run, a=block(3, 8), b=block(8, 16), up=up, c=block(16, 8), head=head(8))


def attention() -> Net:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.embed(x).flatten(2).transpose(1, 2)
        x = x + net.mix(x, x, x, need_weights=False)[0]
        return net.head((x + net.down(F.gelu(net.up(x)))).mean(1))

    return Net(
        run,
        embed=nn.Conv2d(3, 16, 4, 4),
        mix=nn.MultiheadAttention(16, 4, batch_first=True),
        up=nn.Linear(16, 32),
        down=nn.Linear(32, 16),
        head=head(16),
    )


def attention_by_hand() -> Net:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.embed(x).flatten(2).transpose(1, 2)
        batch, tokens, width = x.shape
        q, k, v = net.qkv(net.norm(x)).reshape(batch, tokens, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-2, -1) / 2).softmax(-1) @ v
        x = x + net.project(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return net.head((x + net.down(F.gelu(net.up(x)))).mean(1))

    return Net(
        run,
        embed=nn.Conv2d(3, 16, 4, 4),
        norm=nn.LayerNorm(16),
        qkv=nn.Linear(16, 48),
        project=nn.Linear(16, 16),
        up=nn.Linear(16, 32),
        down=nn.Linear(32, 16),
        head=head(16),
    )


def literal_slice() -> Net:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(pooled(net.c(net.b(net.a(x))[:, :8])))

    return Net(run, a=block(3, 16), b=block(16, 16), c=block(8, 8), head=head(8))


def odd_literal_slice() -> Net:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(pooled(net.c(net.b(net.a(x))[:, 3:12])))

    return Net(run, a=block(3, 16), b=block(16, 16), c=block(9, 8), head=head(8))


def literal_split() -> Net:
    def run(net: Net, x: Tensor) -> Tensor:
        left, right = torch.split(net.b(net.a(x)), [6, 10], 1)
        return net.head(pooled(net.c(left) + net.d(right)))

    return Net(run, a=block(3, 16), b=block(16, 16), c=block(6, 8), d=block(10, 8), head=head(8))


def literal_unflatten() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(432, 64),
        nn.Unflatten(1, (4, 4, 4)),
        block(4, 8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        head(8),
    )


def unknown_operation() -> Net:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(pooled(net.c(torch.cummax(net.b(net.a(x)), 1)[0])))

    return Net(run, a=block(3, 8), b=block(8, 8), c=block(8, 8), head=head(8))


def group_norm() -> nn.Module:
    return nn.Sequential(
        block(3, 16), nn.GroupNorm(4, 16), block(16, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(8)
    )


def recurrent() -> Net:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(net.b(net.mix(net.a(x.flatten(2).transpose(1, 2)))[0][:, -1]))

    return Net(
        run, a=nn.Linear(3, 12), mix=nn.LSTM(12, 16, batch_first=True), b=nn.Linear(16, 8), head=head(8)
    )


def several_outputs() -> Net:
    def run(net: Net, x: Tensor) -> dict[str, object]:
        x = net.a(x)
        return {"first": net.head(pooled(net.b(x))), "others": [net.side(pooled(x))]}

    return Net(run, a=block(3, 16), b=block(16, 8), head=head(8), side=nn.Linear(16, 2))


NETS = [
    (residual, {"a.0": 16, "b.0": 8}),
    (concatenated, {"a.0": 8, "b.0": 12, "c.0": 16}),
    (concatenated_with_itself, {"a.0": 8, "c.0": 16}),
    (depthwise_with_multiplier, {"a.0": 8, "point.0": 16}),
    (grouped, {"a.0": 32, "b.0": 4, "g.0": 8}),
    (flattened, {"a.0": 8, "hidden": 32}),
    (squeezed_and_excited, {"a.0": 16, "down": 4, "b.0": 8}),
    (gated_by_chunks, {"a.0": 16, "g": 12, "b.0": 8}),
    (gated_by_computed_halves, {"a.0": 16, "g": 12, "b.0": 8}),
    (channels_last, {"a.0": 16, "up": 24, "down": 16, "b.0": 8}),
    (scaled, {"0.0": 16, "1.2.0": 8}),
    (shared_module, {"a.0": 16}),
    (tied_weights, {"1": 12, "2": 20}),
    (option_a, {"a.0": 8, "b.0": 8}),
    (u_net, {"a.0": 8, "b.0": 8, "up": 4, "c.0": 8}),
    (attention, {"up": 32}),
    (attention_by_hand, {"up": 32}),
    (literal_slice, {"a.0": 16, "c.0": 8}),
    (odd_literal_slice, {"a.0": 16, "c.0": 8}),
    (literal_split, {"a.0": 16, "c.0": 8}),
    (literal_unflatten, {"3.0": 8}),
    (unknown_operation, {"a.0": 8, "c.0": 8}),
    (group_norm, {"2.0": 8}),
    (recurrent, {"a": 12, "mix.weight_ih_l0": 16, "b": 8}),
    (several_outputs, {"a.0": 16, "b.0": 8}),
    (option_a_with_stated_width, {"b.0": 8}),
]


def trained_like(model: nn.Module) -> nn.Module:
    """Statistics and scales as after training, so that a lost or swapped one shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model.eval()


def half(couplings: Couplings) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    kept = {}
    for coupling in couplings.free:
        order = torch.randperm(coupling.width, generator=generator)
        kept[coupling.name] = order < (coupling.width + 1) // 2
    return kept


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def check_half(model: nn.Module, example: Tensor) -> Couplings:
    """Cuts half of every free coupling; nothing may be rejected, and every layer has its row."""
    before, flags = snapshot(model), [module.training for module in model.modules()]
    couplings = couple(model, example)
    result = cut(model, couplings, half(couplings), example)
    assert result.proof.holds
    assert result.rejected == {}
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert [module.training for module in model.modules()] == flags
    rows = {row.layer: row for row in couplings.explain(half(couplings))}
    layers = {
        name: module.out_features if isinstance(module, nn.Linear) else module.out_channels
        for name, module in result.model.named_modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    }
    loose = {name: len(p) for name, p in result.model.named_parameters() if name in rows}
    assert {name: row.kept for name, row in rows.items()} == layers | loose
    assert all(row.reason for row in rows.values() if row.state == "blocked")
    assert all((row.kept < row.width) == (row.state == "cut") for row in rows.values())
    return couplings


@pytest.mark.parametrize(("build", "free"), NETS, ids=[build.__name__ for build, _ in NETS])
def test_half_of_what_is_free_goes_and_the_answers_stay(build, free: dict[str, int]) -> None:
    torch.manual_seed(0)
    couplings = check_half(trained_like(build()), torch.randn(1, *IMAGE))
    assert {coupling.name: coupling.width for coupling in couplings.free} == free


@pytest.mark.parametrize("name", zoo)
def test_half_of_every_zoo_model_goes_and_the_answers_stay(name: str) -> None:
    shape = (1, 28, 28) if name.startswith("lenet") else (3, 32, 32)
    torch.manual_seed(0)
    couplings = check_half(trained_like(zoo[name](channels=shape[0])), torch.randn(1, *shape))
    last = couplings.explain()[-1]
    assert (last.state, last.reason) == ("blocked", "graph output")
    assert len(couplings.free) > 1


@pytest.mark.parametrize(
    ("build", "layer", "reason"),
    [
        (residual, "head", "graph output"),
        (option_a, "c.0", "8 of 16: zero-padded shortcut: literal sizes"),
        (option_a_with_stated_width, "a.0", "zero-padded shortcut: literal sizes (the cut model fails: "),
        (attention, "mix.out_proj", "MultiheadAttention may hold literal sizes (the cut model fails: "),
        (attention_by_hand, "qkv", "literal size in view (the cut model fails: "),
        (attention_by_hand, "project", "LayerNorm width"),
        (literal_slice, "b.0", "literal size in slice (the cut model fails: "),
        (odd_literal_slice, "b.0", "7 of 16: literal size in slice (the cut model"),
        (literal_split, "b.0", "literal size in split"),
        (literal_unflatten, "1", "literal size in view (the cut model fails: "),
        (unknown_operation, "b.0", "operation aten.cummax is not known"),
        (group_norm, "0.0", "GroupNorm width"),
        (lambda: scaled(literal=True), "0.0", "Scaled may hold literal sizes (the cut model fails: "),
    ],
)
def test_what_cannot_be_cut_says_why(build, layer: str, reason: str) -> None:
    rows = {row.layer: row for row in couple(build().eval(), torch.randn(2, *IMAGE)).explain()}
    assert rows[layer].reason is not None
    assert rows[layer].reason.startswith(reason)


def test_members_name_every_tensor_and_position_that_goes() -> None:
    couplings = couple(flattened().eval(), torch.randn(1, *IMAGE))
    coupling = couplings.named("a.0")
    assert coupling.producers == ("a.0",)
    [(consumer, member)] = coupling.consumers
    assert (consumer, member.parameter, member.dim) == ("hidden", "hidden.weight", 1)
    assert member.positions.tolist() == [list(range(36 * unit, 36 * unit + 36)) for unit in range(8)]
    others = {m.parameter for m in coupling.members if m.role == "other"}
    assert others == {"a.1.weight", "a.1.bias", "a.1.running_mean", "a.1.running_var"}


def test_a_tied_weight_is_one_member() -> None:
    couplings = couple(tied_weights().eval(), torch.randn(1, *IMAGE))
    names = [(m.parameter, m.dim) for m in couplings.named("2").members]
    assert names.count(("2.weight", 0)) == 1
    assert not any(name == "5.weight" for name, _ in names)


def test_two_couplings_of_one_layer_have_different_names() -> None:
    couplings = couple(option_a().eval(), torch.randn(1, *IMAGE))
    names = [coupling.name for coupling in couplings]
    assert len(set(names)) == len(names)
    assert [row.layer for row in couplings.explain()] == ["a.0", "b.0", "c.0", "head"]


def test_frozen_training_and_double_models_are_read_alike() -> None:
    reference = [(c.name, c.width, c.reason) for c in couple(residual().eval(), torch.randn(1, *IMAGE))]
    frozen = residual().train()
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    assert [(c.name, c.width, c.reason) for c in couple(frozen, torch.randn(5, *IMAGE))] == reference
    double = residual().double()
    example = torch.randn(1, *IMAGE, dtype=torch.float64)
    assert [(c.name, c.width, c.reason) for c in couple(double, example)] == reference


def test_the_model_keeps_its_gradients_and_flags() -> None:
    model = literal_slice().train()
    model.a.eval()
    model(torch.randn(2, *IMAGE))[0].sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    before, flags = snapshot(model), [module.training for module in model.modules()]
    couple(model, torch.randn(2, *IMAGE))
    assert all(torch.equal(p.grad, gradients[name]) for name, p in model.named_parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags


def test_a_rule_that_loses_count_counts_as_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rules, "gelu", lambda _, call: [ids[:1] for ids in call.axes("self")])
    rows = {row.layer: row for row in couple(channels_last().eval(), torch.randn(1, *IMAGE)).explain()}
    assert rows["up"].reason == "operation aten.gelu is not known"


def test_what_only_looks_like_a_free_channel_is_pinned() -> None:
    def mirrored(net: Net, x: Tensor) -> Tensor:
        x = F.pad(net.a(x).flatten(2).transpose(1, 2), (2, 2), mode="reflect")
        return net.head(x.mean(1))

    def picked(net: Net, x: Tensor) -> Tensor:
        return net.head(net.a(x)[:, 3].flatten(1))

    def averaged(net: Net, x: Tensor) -> Tensor:
        return net.head(net.a(x).mean(1).flatten(1))

    def ranked(net: Net, x: Tensor) -> Tensor:
        return net.head(pooled(net.a(x).softmax(1)))

    for run, width, reason in [
        (mirrored, 12, "channels are cropped or mirrored"),
        (picked, 144, "a channel is picked by its number"),
        (averaged, 144, "aten.mean runs over the channels"),
        (ranked, 8, "aten.softmax runs over the channels"),
    ]:
        rows = couple(Net(run, a=block(3, 8), head=head(width)).eval(), torch.randn(1, *IMAGE)).explain()
        assert (rows[0].layer, rows[0].reason) == ("a.0", reason)


@pytest.mark.parametrize("frozen", [True, False])
def test_encoder_layers_of_torch_lose_only_their_hidden_units(frozen: bool) -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).requires_grad_(not frozen)
    couplings = check_half(model.eval(), torch.randn(1, 5, 16))
    assert [coupling.name for coupling in couplings.free] == ["layers.0.linear1", "layers.1.linear1"]


@pytest.mark.parametrize("pattern", ["b.0", "b", "b*", "b.1"])
def test_protected_layers_stay_whole(pattern: str) -> None:
    couplings = couple(residual().eval(), torch.randn(1, *IMAGE), protect=[pattern])
    assert [coupling.name for coupling in couplings.free] == ["a.0"]
    assert couplings.named("b.0").reason == "protected"
    assert {row.layer: row.reason for row in couplings.explain()}["b.0"] == "protected"


def test_protecting_what_is_not_there_lists_near_names() -> None:
    with pytest.raises(UsageError, match=r"no module is named 'heads'; near: head"):
        couple(residual(), torch.randn(1, *IMAGE), protect=["heads"])


def test_layers_the_input_does_not_reach_have_a_row() -> None:
    model = residual()
    model.spare = nn.Conv2d(3, 7, 1)
    row = couple(model.eval(), torch.randn(1, *IMAGE)).explain()[-1]
    assert (row.layer, row.width, row.kept, row.state) == ("spare", 7, 7, "blocked")
    assert row.reason == "not reached, or its weight is computed"


def test_a_model_torch_cannot_export_is_refused_with_the_line() -> None:
    def run(net: Net, x: Tensor) -> Tensor:
        if x.mean() > 0:
            x = x + 1
        return net.head(pooled(x))

    with pytest.raises(ModelError, match=r"test_coupling.py:\d+ \(`if x.mean\(\) > 0:`\).*Rewrite that line"):
        couple(Net(run, head=head(3)), torch.randn(1, *IMAGE))


def test_an_input_the_model_does_not_accept_is_named() -> None:
    with pytest.raises(ModelError, match=r"does not accept an input of shape \(2, 4, 12, 12\)"):
        couple(residual(), torch.randn(1, 4, 12, 12))


def test_couplings_survive_a_second_round() -> None:
    torch.manual_seed(0)
    model, example = trained_like(residual()), torch.randn(1, *IMAGE)
    couplings = couple(model, example)
    first = cut(model, couplings, half(couplings), example)
    again = couple(first.model, example)
    second = cut(first.model, again, half(again), example)
    assert {c.name: c.width for c in couple(second.model, example).free} == {"a.0": 4, "b.0": 2}
    whole = copy.deepcopy(model)
    shrink_(whole, first.structure.then(second.structure))
    assert torch.equal(whole(example), second.model(example))


class Deciding(nn.Module):
    """A Python decision on values in the middle, which torch.export refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Sequential(block(3, 8), block(8, 16))
        self.after = nn.Sequential(
            block(16, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 12), head(12)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        if x.sum() > 1e9:
            x = x / 2
        return self.after(x)


def test_what_cannot_be_followed_as_a_whole_is_cut_inside_its_modules() -> None:
    model, example = trained_like(Deciding()), torch.randn(2, *IMAGE)
    with pytest.raises(ModelError, match=r"test_coupling.py.*if x.sum.*or couple it with fallback=True"):
        couple(model, example)
    couplings = couple(model, example, fallback=True)
    assert [c.name for c in couplings.free] == ["before.0.0", "after.0.0", "after.3"]
    assert couplings.named("before.1.0").reason == "graph output"
    result = cut(model, couplings, half(couplings), example)
    assert result.rejected == {} and type(result.model) is Deciding
    with pytest.raises(ModelError, match="there is no program"):
        couple(model, example, result="program", fallback=True)


def test_a_model_of_which_nothing_can_be_followed_says_so() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(12, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) if x.sum() > 0 else -self.a(x))

    with pytest.raises(ModelError, match="none of its modules"):
        couple(Stubborn().eval(), torch.randn(2, 12), fallback=True)


class Auxiliary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head, self.side = block(3, 16), block(16, 8), head(8), head(16)

    def forward(self, x: Tensor):
        x = self.a(x)
        y = self.head(pooled(self.b(x)))
        return (y, self.side(pooled(x))) if self.training else y


def test_heads_used_in_training_only_follow() -> None:
    model = trained_like(Auxiliary())
    couplings = couple(model, torch.randn(2, *IMAGE))
    cut_model = cut(model, couplings, half(couplings), torch.randn(2, *IMAGE)).model
    assert cut_model.side.in_features == 8
    assert [y.shape for y in cut_model.train()(torch.randn(2, *IMAGE))] == [(2, 5), (2, 5)]
    assert {row.layer: row.reason for row in couplings.explain()}["side"] == "graph output"


def test_a_head_of_zeros_proves_nothing_by_itself() -> None:
    model = trained_like(literal_slice())
    torch.nn.init.zeros_(model.head.weight)
    couplings = couple(model, torch.randn(2, *IMAGE))
    assert "literal size in slice" in (couplings.named("b.0").reason or "")
    assert not model.head.weight.any()


def test_buffers_that_are_divided_by_are_not_zeroed() -> None:
    class Standardised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), head(8)
            self.register_buffer("mean", torch.randn(8, 1, 1))
            self.register_buffer("std", torch.rand(8, 1, 1) + 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(pooled(self.b((self.a(x) - self.mean) / self.std)))

    couplings = check_half(Standardised().eval(), torch.randn(2, *IMAGE))
    assert [c.name for c in couplings.free] == ["a", "b"]
