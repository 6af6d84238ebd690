import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kezuri.core.errors import ModelError
from kezuri.model.program import as_program
from kezuri.model.sites import prunable_weights, tensors_of
from kezuri.model.stages import in_stages, measuring_stages, statistics_of


class Skips(nn.Module):
    """A skip over two convolutions, norms, operations in place, a weight that is used twice."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.one, self.norm1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.two = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        inner = F.relu(self.norm1(self.one(x)), inplace=True)
        x += self.two(self.one(inner))
        return self.head(F.dropout(F.adaptive_avg_pool2d(x.relu_(), 2), training=self.training).flatten(1))


class Written(Skips):
    """Writes into a part of what it needs across a weight."""

    def forward(self, x):
        x = self.stem(x)
        inner = self.one(x)
        x[:, :2] *= 0.5
        return self.head(F.adaptive_avg_pool2d(x + self.two(inner), 2).flatten(1))


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.after = nn.Conv2d(1, 5, 3, padding=1), nn.Conv2d(5, 3, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x - 0.5)), 2)
        return self.head(self.after(x).mean((2, 3)))


def seeded(kind):
    torch.manual_seed(0)
    model = kind()
    model(torch.randn(32, 1, 8, 8))
    return model.eval()


def run(stages, tensors, images):
    state = (images,)
    for stage in stages:
        state = stage.run(*state, *[tensors[name] for name in stage.given])
    return state


def images(count=5):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", [Skips, Written, Plain])
def test_stages_answer_as_the_model_does_and_leave_their_input(kind):
    model, batch = seeded(kind), images()
    program = as_program(model, (batch[:2],))
    names = list(prunable_weights(model))
    stages = in_stages(program, names)
    assert [name for stage in stages for name in stage.changing if name != "one.weight"] == [
        name for name in names if name != "one.weight"
    ]
    before = batch.clone()
    with torch.no_grad():
        changed = {
            name: torch.randn_like(tensor) for name, tensor in tensors_of(model).items() if name in names
        }
        [answer] = run(stages, tensors_of(model) | changed, batch)
        for name, tensor in changed.items():
            model.get_parameter(name).copy_(tensor)
        assert torch.allclose(answer, model(batch), atol=1e-5)
    assert torch.equal(batch, before)


@pytest.mark.parametrize(("kind", "count"), [(Skips, 5), (Written, 2), (Plain, 4)])
def test_a_state_can_be_gone_on_from_again(kind, count):
    model, batch = seeded(kind), images()
    stages = in_stages(as_program(model, (batch[:2],)), list(prunable_weights(model)))
    assert len(stages) == count
    tensors, states = tensors_of(model), [(batch,)]
    with torch.no_grad():
        for stage in stages:
            states.append(stage.run(*states[-1], *[tensors[name] for name in stage.given]))
        copies = [[value.clone() for value in state] for state in states]
        for at, stage in enumerate(stages):
            stage.run(*states[at], *[tensors[name] + 1 for name in stage.given])
    for state, copy in zip(states, copies, strict=True):
        assert all(torch.equal(value, was) for value, was in zip(state, copy, strict=True))


def test_what_nothing_changes_is_a_stage_of_its_own():
    model = seeded(Plain)
    stages = in_stages(as_program(model, (images(2),)), ["head.weight"])
    assert [stage.changing for stage in stages] == [(), ("head.weight",)]


def test_a_first_convolution_goes_by_rows_with_what_follows_it_by_channel():
    model, batch = seeded(Plain), images()
    stages = in_stages(as_program(model, (batch[:2],)), list(prunable_weights(model)))
    [rowwise] = [stage for stage in stages if stage.rows]
    assert (rowwise.rows.weight, rowwise.rows.bias) == ("conv.weight", "conv.bias")
    tensors = {name: tensor.detach() for name, tensor in tensors_of(model).items()}
    expected = F.max_pool2d(
        F.relu(F.conv2d(batch - 0.5, tensors["conv.weight"], tensors["conv.bias"], padding=1)), 2
    )
    turned = {name: tensors[name][[3, 1]] for name in ("conv.weight", "conv.bias")}
    state = rowwise.run(batch - 0.5, *[turned[name] for name in rowwise.given])
    assert torch.allclose(state[rowwise.rows.result], expected[:, [3, 1]], atol=1e-6)
    masked_later = in_stages(as_program(model, (batch[:2],)), ["after.weight"])
    assert [stage.rows.weight for stage in masked_later if stage.rows] == ["after.weight"]
    assert not [stage for stage in in_stages(as_program(model, (batch[:2],)), ["head.weight"]) if stage.rows]


def test_a_grouped_convolution_does_not_go_by_rows():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).eval()
    stages = in_stages(as_program(model, (torch.zeros(2, 4, 4, 4),)), list(prunable_weights(model)))
    assert not [stage for stage in stages if stage.rows]


def test_measured_statistics_are_those_that_training_mode_would_note():
    model, batch = seeded(Skips), images(20)
    program = as_program(model, (batch[:2],))
    names = list(prunable_weights(model))
    stages, measured = measuring_stages(program, names)
    assert (
        set(measured)
        == set(statistics_of(program))
        == {n for n in dict(model.named_buffers()) if "running" in n}
    )
    with torch.no_grad():
        found = dict(zip(measured, run(stages, tensors_of(model), batch), strict=True))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
                module.train()
        model(batch)
    for name, value in found.items():
        assert torch.allclose(value, model.get_buffer(name), atol=1e-5)


class TwoAnswers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x), x


def test_one_input_and_one_answer_are_needed():
    with pytest.raises(ModelError, match="gives one tensor"):
        in_stages(as_program(TwoAnswers(), (torch.zeros(2, 4),)), ["layer.weight"])
