import torch
from torch import nn
from torch.nn import functional as F

from kezuri.model.in_place import written
from kezuri.model.program import as_program
from kezuri.quantization.graph import calls, kind, normalise_

from .nets import Net, noise, seeded


def normalised(run, *inputs, **parts):
    """The network as it was and as it is once normalised, and what is left written."""
    model = seeded(lambda: Net(run, **parts))
    program = as_program(model, inputs)
    normalise_(program.graph, attention=True, swish=True)
    program.graph.lint()
    program.recompile()
    return model, program, written(program.graph)


def kinds(program):
    return [kind(node) for node in calls(program.graph)]


def same(model, program, *inputs):
    with torch.no_grad():
        expected = model(*(x.clone() for x in inputs))
        return torch.allclose(program(*(x.clone() for x in inputs)), expected, atol=1e-6)


def test_operations_in_place_give_new_values():
    x = noise(2, 3, 4, 4)
    model, program, left = normalised(
        lambda net, x: F.relu(net.a(x), inplace=True).add_(1), x, a=nn.Conv2d(3, 4, 1)
    )
    assert not left and same(model, program, x)
    assert all(not node.target._schema.is_mutable for node in calls(program.graph))


def test_who_reads_the_old_value_later_reads_the_new_one():
    def run(net, x):
        y = net.a(x)
        z = y.relu_()
        return y * 2 + z

    x = noise(2, 3, 4, 4)
    model, program, left = normalised(run, x, a=nn.Conv2d(3, 4, 1))
    assert not left and same(model, program, x)


def test_who_read_the_old_value_before_still_reads_it():
    def run(net, x):
        y = net.a(x)
        before = y * 2
        return before + y.relu_()

    x = noise(2, 3, 4, 4)
    model, program, left = normalised(run, x, a=nn.Conv2d(3, 4, 1))
    assert not left and same(model, program, x)


def test_a_part_that_is_written_is_left_and_told():
    def run(net, x):
        y = net.a(x)
        y[:, :2] = 0
        return net.b(y)

    x = noise(2, 3, 4, 4)
    model, program, left = normalised(run, x, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 1))
    assert "conv2d" in {kind(node) for node in left} and same(model, program, x)


def test_a_view_that_is_written_alone_becomes_ordinary():
    x = noise(2, 3, 4, 4)
    model, program, left = normalised(
        lambda net, x: net.b(net.a(x).flatten(1).relu_()), x, a=nn.Conv2d(3, 4, 1), b=nn.Linear(64, 2)
    )
    assert not left and "relu" in kinds(program) and same(model, program, x)


def test_attention_comes_apart():
    def run(net, x, mask, causal=False):
        q, k, v = net.qkv(x).view(-1, 5, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=0.3)

    x = noise(2, 5, 8)
    masks = [None, noise(5, 5), torch.ones(5, 5, dtype=torch.bool).tril()]
    for mask in masks:
        model, program, _ = normalised(lambda net, x, m=mask: run(net, x, m), x, qkv=nn.Linear(8, 24))
        assert kinds(program).count("matmul") == 2 and same(model, program, x)
    model, program, _ = normalised(lambda net, x: run(net, x, None, True), x, qkv=nn.Linear(8, 24))
    assert "scaled_dot_product_attention" in kinds(program) and same(model, program, x)


def test_the_mean_of_maps_is_a_pool():
    x = noise(2, 3, 4, 4)
    for run in (lambda net, x: x.mean((2, 3)), lambda net, x: x.mean((-1, -2), keepdim=True)):
        model, program, _ = normalised(run, x)
        assert (
            "adaptive_avg_pool2d" in kinds(program)
            and "mean" not in kinds(program)
            and same(model, program, x)
        )
    model, program, _ = normalised(lambda net, x: x.mean((1, 2)), x)
    assert "mean" in kinds(program)
