import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kezuri.core.errors import UsageError
from kezuri.model.coupling import Choices, couple
from kezuri.model.modes import NormMode
from kezuri.model.program import Program
from kezuri.model.proof import Cut, cut


class Attention(nn.Module):
    """By hand, with literal sizes; `groups` of queries share keys and values."""

    def __init__(self, scale: float | None = None, groups: int = 1) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 16, 4, 4), nn.LayerNorm(16)
        self.q, self.kv = nn.Linear(16, 32), nn.Linear(16, 64 // groups)
        self.out, self.head = nn.Linear(32, 16), nn.Linear(16, 5)
        self.scale, self.groups, self.drop = scale, groups, nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        batch, tokens, _ = x.shape
        q = self.q(self.norm(x)).view(batch, tokens, 4, 8).transpose(1, 2)
        k, v = self.kv(self.norm(x)).view(batch, tokens, 2, 4 // self.groups, 8).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, scale=self.scale, enable_gqa=self.groups > 1)
        return self.head((x + self.drop(self.out(mixed.transpose(1, 2).reshape(batch, tokens, 32)))).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options) -> None:
        super().__init__()
        self.rnn = kind(12, 16, batch_first=True, **options)
        self.head = nn.Linear(16 * (2 if self.rnn.bidirectional else 1), 5)

    def forward(self, x: Tensor) -> Tensor:
        answers, _ = self.rnn(x)
        return self.head(answers[:, -1])


class Padded(nn.Module):
    """ResNet's option A, with a batch norm and dropout to train."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2, padding=1)
        self.norm, self.drop, self.head = nn.BatchNorm2d(16), nn.Dropout(0.2), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = F.relu(self.norm(self.b(x)) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)))
        return self.head(self.drop(x.mean((2, 3))))


IMAGES = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
STEPS = torch.randn(3, 7, 12, generator=torch.Generator().manual_seed(0))


def halved(model: nn.Module, x: Tensor, **options) -> Cut:
    torch.manual_seed(0)
    couplings = couple(model.eval(), x, **options)
    kept = {c.name: torch.arange(c.width) >= c.width // 2 for c in couplings.free}
    result = cut(model, couplings, kept, x)
    assert result.proof.holds and result.rejected == {}
    return result


@pytest.mark.parametrize(
    ("model", "heads", "shape"),
    [
        (Attention(), "whole", (16, 16)),
        (Attention(), "width", (16, 16)),
        (Attention(scale=0.3), "width", (16, 16)),
        (Attention(groups=2), "whole", (16, 16)),
        (Attention(groups=2), "width", (16, 16)),
    ],
)
def test_attention_loses_heads_or_their_width(model: nn.Module, heads, shape: tuple[int, int]) -> None:
    result = halved(model, IMAGES, result="auto", choices=Choices(heads=heads))
    assert isinstance(result.model, Program) and result.rewritten is not None
    assert result.model.get_parameter("q.weight").shape == shape
    sizes = [node.args[1] for node in result.model.graph.nodes if "view" in str(node.target)]
    assert any(size[2:] == ([2, 8] if heads == "whole" else [4, 4]) for size in sizes)


@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2}, {"num_layers": 2, "bidirectional": True}, {"bias": False}]
)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_lose_hidden_units_in_the_users_own_class(kind, options) -> None:
    result = halved(Recurrent(kind, **options), STEPS)
    assert type(result.model) is Recurrent and result.model.rnn.hidden_size == 8
    result.model.train()(STEPS[:1]).sum().backward()


def test_a_given_first_state_keeps_the_units() -> None:
    class Given(Recurrent):
        def forward(self, x: Tensor, state: Tensor) -> Tensor:
            return self.head(self.rnn(x, state)[0][:, -1])

    model = Given(nn.GRU).eval()
    couplings = couple(model, (STEPS, torch.randn(1, 3, 16)))
    assert couplings.named("rnn.weight_ih_l0").reason == "input"


def test_a_program_trains_copies_and_takes_any_batch() -> None:
    model = Padded()
    program = halved(model, IMAGES, result="auto").model
    assert isinstance(program, Program)
    assert set(program.state_dict()) < set(model.state_dict())
    assert torch.equal(program(IMAGES), copy.deepcopy(program)(IMAGES))
    assert program(torch.randn(5, 3, 12, 12)).shape == (5, 5)
    mean = program.get_buffer("norm.running_mean").clone()
    assert torch.equal(program(IMAGES), program(IMAGES))
    program.train()
    assert not torch.equal(program(IMAGES), program(IMAGES)), "dropout is on"
    assert not torch.equal(program.get_buffer("norm.running_mean"), mean), "statistics move"
    next(part for part in program.modules() if isinstance(part, NormMode)).eval()
    mean = program.get_buffer("norm.running_mean").clone()
    assert not torch.equal(program(IMAGES), program(IMAGES)), "dropout is still on"
    assert torch.equal(program.get_buffer("norm.running_mean"), mean), "statistics stay"
    program.train()
    program(IMAGES).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in program.parameters())
    assert torch.equal(program.eval()(IMAGES), program(IMAGES))


def test_the_users_own_class_is_kept_where_it_can_be() -> None:
    assert halved(Padded(), IMAGES, result="module").rewritten is None
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(256, 5))
    assert type(halved(plain, IMAGES, result="auto").model) is nn.Sequential


def test_a_module_cannot_be_cut_in_place_where_it_takes_a_program() -> None:
    model = Padded().eval()
    couplings = couple(model, IMAGES, result="auto")
    name = next(c.name for c in couplings.free if c.rewrite is not None)
    kept = {name: torch.arange(couplings.named(name).width) > 0}
    with pytest.raises(UsageError, match="cannot lose these channels in place"):
        cut(model, couplings, kept, IMAGES, inplace=True)


@pytest.mark.parametrize(("gate", "free"), [(torch.tanh, True), (torch.sigmoid, False)])
def test_sums_over_channels_that_are_not_zero_when_masked_keep_them(gate, free: bool) -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(12, 8), nn.Linear(12, 8), nn.Linear(7, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(gate(self.a(x)) @ gate(self.b(x)).transpose(1, 2)).mean(1)

    model = Product().eval()
    couplings = couple(model, STEPS)
    assert (couplings.named("a").reason is None) == free
    halved(model, STEPS)


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.Conv2d(16, 8, 3)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(F.relu(self.norm(self.a(x)))).mean((2, 3)))


@pytest.mark.parametrize(("model", "layer"), [(Attention(), "embed"), (Grouped(), "a")])
def test_norm_widths_go_when_asked_to_and_count_only_what_is_left(model: nn.Module, layer: str) -> None:
    assert "Norm width" in (couple(model.eval(), IMAGES).named(layer).reason or "")
    result = halved(model, IMAGES, result="auto", choices=Choices(norms=True))
    assert result.model.get_parameter("norm.weight").shape == (8,)
    assert torch.allclose(result.masked(IMAGES), result.model(IMAGES), atol=1e-5)
