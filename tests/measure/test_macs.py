import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kezuri.measure.macs import cost, count_macs, count_params
from kezuri.model.load import load_model
from kezuri.model.zoo import zoo


class Attention(nn.Module):
    """Self-attention over the rows of a one-channel image."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.squeeze(1)
        return self.attention(rows, rows, rows, need_weights=False)[0]


class Plain(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), (3, 10, 12), 8 * 10 * 12 * 3 * 9),
        (nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), (3, 10, 12), 8 * 5 * 6 * 3 * 9),
        (nn.Conv2d(8, 16, 3, padding=1, groups=4), (8, 6, 6), 16 * 36 * 2 * 9),
        (nn.Conv2d(8, 8, 5, padding=2, groups=8), (8, 6, 6), 8 * 36 * 25),
        (nn.Conv2d(4, 8, 3, padding=2, dilation=2), (4, 7, 7), 8 * 49 * 4 * 9),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2), 60),
        (nn.Linear(4, 6), (3, 2, 4), 3 * 2 * 4 * 6),
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)), (3, 4, 4), 0),
        (Plain(), (2, 7, 8), 2 * 2 * 7 * 7 * 8),
        (Attention(8, 2), (1, 7, 8), 4 * 7 * 8 * 8 + 2 * 7 * 7 * 8),
    ],
)
def test_hand_counts(layer: nn.Module, shape: tuple[int, int, int], macs: int) -> None:
    assert count_macs(layer, shape) == macs


class Both(nn.Module):
    """Tokens (B, T) and features (B, 6), each with its own layers."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.read = nn.Embedding(10, 5), nn.LSTM(5, 7, batch_first=True, bidirectional=True)
        self.mix = nn.Linear(6, 3)

    def forward(self, tokens: torch.Tensor, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.read(self.table(tokens))[0], self.mix(features)


def test_a_batch_counts_for_the_share_of_one() -> None:
    layer = nn.Linear(4, 6)
    assert count_macs(layer, torch.zeros(5, 4)) == 24
    assert count_macs(layer, (torch.zeros(5, 4),)) == 24
    assert count_macs(layer, torch.zeros(5, 3, 4)) == 72
    tokens, features = torch.zeros(2, 9, dtype=torch.long), torch.zeros(2, 6)
    recurrent = 9 * 2 * 4 * 7 * (5 + 7)
    assert count_macs(Both(), (tokens, features)) == recurrent + 18
    assert count_macs(Both(), (tokens, features[:1])) == 2 * recurrent + 18
    assert count_macs(nn.GRU(5, 7), torch.zeros(4, 1, 5)) == 3 * 7 * (5 + 7)


@pytest.mark.parametrize(
    ("name", "shape", "macs"),
    [
        ("lenet5", (1, 28, 28), 6 * 784 * 25 + 16 * 100 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10),
        # 40.55, 125.49 and 313 M in the pruning literature (Lin et al., 2020, HRank)
        ("resnet20", (3, 32, 32), 40_551_040),
        ("resnet56", (3, 32, 32), 125_485_696),
        ("vgg16_bn", (3, 32, 32), 313_463_808),
        # six blocks of 65 tokens: four 128x128 and two 128x512 matrices, and attention; patches; classes
        (
            "vit_tiny",
            (3, 32, 32),
            6 * (65 * 12 * 128**2 + 2 * 65**2 * 128) + 64 * 48 * 128 + 1280,
        ),
    ],
)
def test_models_of_the_zoo(name: str, shape: tuple[int, int, int], macs: int) -> None:
    assert count_macs(zoo[name](), shape) == macs


def test_counting_leaves_the_model_as_it_was() -> None:
    model = load_model("resnet8", classes=10, image_shape=(3, 8, 8)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    count_macs(model, (3, 8, 8))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()


def test_shared_parameters_count_once_and_buffers_do_not() -> None:
    layer = nn.Linear(4, 4)
    assert count_params(nn.Sequential(layer, layer, nn.BatchNorm1d(4))) == 20 + 8


def test_as_measurements() -> None:
    params, macs = cost(zoo["lenet300_100"](), (1, 28, 28))
    assert (params.metric, params.value, params.unit) == ("params", 266_610, "count")
    assert (macs.metric, macs.value, macs.unit) == ("macs", 266_200, "count")


def test_a_view_of_a_parameter_may_be_given_to_a_module():
    class Viewed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.inner = nn.Parameter(torch.zeros(1, 4)), nn.Linear(4, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(self.token.expand(len(x), -1))

    model = Viewed()
    assert count_macs(model, torch.zeros(1, 4)) == 24
    assert model.token.requires_grad
