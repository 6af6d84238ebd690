import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kezuri.core.errors import ProofFailed, UsageError
from kezuri.model.channels import Axes, Call, Channels
from kezuri.model.coupling import Couplings, couple
from kezuri.model.coupling_rule import rules
from kezuri.model.proof import cut, prove

TOKENS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))


class Mixer(nn.Module):
    """Three layers that may be cut and, between them, one that only a wrong rule lets be cut."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.hidden, self.wide = nn.Linear(6, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.norm, self.last, self.head = nn.LayerNorm(8), nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.wide(F.relu(self.hidden(self.first(x))))
        logits: Tensor = self.head(F.relu(self.last(self.norm(x))))
        return logits


def halved(couplings: Couplings) -> dict[str, Tensor]:
    return {coupling.name: torch.arange(coupling.width) % 2 == 0 for coupling in couplings.free}


def norm_that_lets_channels_go(channels: Channels, call: Call) -> Axes:
    x = call.axes("input")
    for argument in ("weight", "bias"):
        channels.join(x[-1], call.axes(argument)[0])
    return x


def norm_that_forgets_its_weights(_: Channels, call: Call) -> Axes:
    return call.axes("input")


def test_equal_models_differ_by_nothing() -> None:
    proof = prove(Mixer(), Mixer(), TOKENS)
    assert (proof.error, proof.tolerance, proof.precision, proof.holds) == (0.0, 1e-5, "float32", True)
    assert proof.inputs >= 2


def test_a_small_change_of_one_weight_shows() -> None:
    changed = Mixer()
    with torch.no_grad():
        changed.first.weight[0, 0] += 1e-3
    proof = prove(Mixer(), changed, TOKENS)
    assert proof.error > proof.tolerance and not proof.holds


def test_all_outputs_count() -> None:
    class Two(nn.Module):
        def __init__(self, second: float) -> None:
            super().__init__()
            self.second = second

        def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            return x, {"second": x * self.second}

    assert prove(Two(2.0), Two(2.0), TOKENS).holds
    assert prove(Two(2.0), Two(2.1), TOKENS).error == pytest.approx(0.05, rel=1e-3)
    assert prove(Two(float("nan")), Two(float("nan")), TOKENS).error == float("inf")


def test_float64_decides_where_float32_only_rounds() -> None:
    class Cancels(nn.Module):
        """Two orders of one sum: equal but for rounding, which the subtraction makes large."""

        def __init__(self, swapped: bool) -> None:
            super().__init__()
            self.swapped = swapped

        def forward(self, x: Tensor) -> Tensor:
            return (x - 1e4) + 1e4 if self.swapped else x + (1e4 - 1e4)

    proof = prove(Cancels(False), Cancels(True), TOKENS)
    assert proof.holds and proof.precision == "float64"


def test_half_precision_models_are_compared_as_float32() -> None:
    model = Mixer().to(torch.bfloat16)
    assert prove(model, Mixer().to(torch.bfloat16), TOKENS).holds
    assert model.first.weight.dtype == torch.bfloat16


def test_models_keep_their_training_flags() -> None:
    model = Mixer().train()
    model.norm.eval()
    prove(model, Mixer(), TOKENS)
    assert model.training and model.first.training and not model.norm.training


def test_inputs_that_are_not_floating_point_are_used_as_they_are() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    words = torch.tensor([[1, 9, 3]])
    couplings = couple(model, words)
    assert [(c.name, c.width) for c in couplings.free] == [("0", 8), ("1", 6)]
    result = cut(model, couplings, halved(couplings), words)
    assert result.rejected == {} and result.model[0].embedding_dim == 4


def test_a_hidden_dependence_is_rolled_back_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rules, "layer_norm", norm_that_lets_channels_go)
    model = Mixer()
    couplings = couple(model, TOKENS)
    assert [coupling.name for coupling in couplings.free] == ["first", "hidden", "wide", "last"]
    result = cut(model, couplings, halved(couplings), TOKENS)
    assert list(result.rejected) == ["wide"]
    assert "answers differ by" in result.rejected["wide"]
    assert result.proof.holds
    widths = [layer.out_features for layer in result.model.children() if isinstance(layer, nn.Linear)]
    assert widths == [4, 8, 8, 6, 3]
    assert not any(name.startswith(("wide.bias", "norm")) for name in result.structure.kept)


def test_a_cut_model_that_cannot_run_is_rolled_back_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rules, "layer_norm", norm_that_forgets_its_weights)
    model = Mixer()
    couplings = couple(model, TOKENS)
    result = cut(model, couplings, halved(couplings), TOKENS, inplace=True)
    assert list(result.rejected) == ["wide"]
    assert result.rejected["wide"].startswith("the cut model fails: RuntimeError")
    assert result.model is model and model.first.out_features == 4 and model.wide.out_features == 8


def test_several_guilty_couplings_are_all_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rules, "layer_norm", norm_that_lets_channels_go)
    model = nn.Sequential(
        nn.Linear(6, 8), *[nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)) for _ in range(4)]
    )
    couplings = couple(model, TOKENS)
    result = cut(model, couplings, halved(couplings), TOKENS)
    assert list(result.rejected) == ["0", "1.1", "2.1", "3.1"]
    assert result.structure.kept == {} and result.proof.error == 0


def test_cutting_a_copy_leaves_the_model_alone_and_in_place_changes_it() -> None:
    model = Mixer()
    couplings = couple(model, TOKENS)
    result = cut(model, couplings, halved(couplings), TOKENS)
    assert model.first.out_features == 8 and result.model.first.out_features == 4
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(TOKENS).sum().backward()
    optimizer.step()
    done = cut(model, couplings, halved(couplings), TOKENS, optimizer=optimizer, inplace=True)
    assert done.model is model and done.structure == result.structure
    assert optimizer.state[model.first.weight]["momentum_buffer"].shape == (4, 6)


def test_an_optimizer_needs_a_cut_in_place() -> None:
    model = Mixer()
    with pytest.raises(UsageError, match="inplace=True"):
        cut(model, couple(model, TOKENS), {}, TOKENS, optimizer=torch.optim.SGD(model.parameters(), 0.1))


def test_a_model_that_cannot_be_proved_at_all_is_an_error() -> None:
    model = Mixer()
    couplings = couple(model, TOKENS)
    with torch.no_grad():
        model.head.bias.fill_(float("nan"))
    with pytest.raises(ProofFailed, match="cannot be proved even uncut"):
        cut(model, couplings, halved(couplings), TOKENS)
