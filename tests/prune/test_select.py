import pytest
import torch
from torch import nn

from kezuri.core.errors import MissingEvidence, RecipeError, TrainingDiverged, UsageError
from kezuri.model.coupling import couple
from kezuri.model.proof import cut
from kezuri.prune.allocation import Erk, Given
from kezuri.prune.criteria.fpgm import Fpgm
from kezuri.prune.criteria.norm import L1, L2
from kezuri.prune.criteria.pcas import Pcas
from kezuri.prune.criteria.taylor import Taylor
from kezuri.prune.evidence import Evidence
from kezuri.prune.granularity import Channel, Filter, Weight
from kezuri.prune.scope import Global, Local
from kezuri.prune.select import select_masks

GATES = {
    "stem.weight": Evidence(gate=torch.tensor([0.9, 0.1, 0.9, 0.9])),
    "conv2.weight": Evidence(gate=torch.tensor([0.9, 0.1, 0.9, 0.9])),
    "conv1.weight": Evidence(gate=torch.tensor([0.2, 0.8, 0.15, 0.8, 0.8, 0.8])),
}


def test_the_smallest_weights_go_and_the_model_stays_as_it_is(residual):
    before = {name: tensor.clone() for name, tensor in residual.state_dict().items()}
    selection = select_masks(
        residual, 0.5, criterion=L1(), granularity=Weight(), scope=Global(normalize="none")
    )
    values = torch.cat([residual.get_parameter(name).abs().flatten() for name in selection.masks])
    kept = torch.cat([mask.flatten() for mask in selection.masks.values()])
    assert values[~kept].max() <= values[kept].min()
    assert int((~kept).sum()) == -(-len(kept) // 2)
    assert selection.kept_channels is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in residual.state_dict().items())


def test_a_pcas_round_removes_a_share_of_the_channels_and_cuts_them(residual, couplings):
    selection = select_masks(
        residual.eval(),
        0.3,
        criterion=Pcas(),
        granularity=Channel(producers="mean"),
        scope=Global(count="units"),
        evidence=GATES,
        couplings=couplings,
    )
    assert selection.kept_channels["stem"].tolist() == [True, False, True, True]
    assert selection.kept_channels["conv1"].tolist() == [False, True, False, True, True, True]
    assert selection.shortfall == 0
    gone = [name for name, mask in selection.masks.items() if not mask.all()]
    assert gone == ["stem.weight", "conv1.weight", "conv2.weight", "head.weight"]


def test_kept_channels_can_be_cut_out_with_proof(residual):
    images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    residual.eval()
    couplings = couple(residual, images)
    selection = select_masks(
        residual, 0.4, criterion=L2(), granularity=Channel(), scope=Local(), couplings=couplings
    )
    result = cut(residual, couplings, selection.kept_channels, images)
    assert result.proof.error <= result.proof.tolerance
    assert not result.rejected
    for name, mask in selection.masks.items():
        left = result.model.get_parameter(name).numel()
        assert left == int(mask.sum())
        assert left < mask.numel()


class Odd(nn.Module):
    """Tokens and images: an embedding, a transposed convolution, a loose kernel and a fixed one."""

    def __init__(self):
        super().__init__()
        self.table, self.mix = nn.Embedding(10, 6), nn.Linear(6, 3)
        self.down, self.up = nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 6, 3)
        self.kernel = nn.Parameter(torch.randn(5, 6, 3, 3))
        self.register_buffer("blur", torch.full((6, 1, 3, 3), 1 / 9))
        self.out = nn.Conv2d(5, 3, 1)

    def forward(self, tokens, images):
        maps = nn.functional.conv2d(self.up(self.down(images).relu()), self.blur, groups=len(self.blur))
        maps = self.out(nn.functional.conv2d(maps, self.kernel).relu())
        return maps.mean((2, 3)) + self.mix(self.table(tokens).mean(1))


@pytest.fixture(scope="module")
def odd():
    torch.manual_seed(0)
    model, inputs = Odd().eval(), (torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, 3, 9, 9))
    return model, inputs, couple(model, inputs)


@pytest.mark.parametrize("criterion", [L2(), Fpgm()], ids=["l2", "fpgm"])
def test_every_weight_that_produces_channels_competes(odd, criterion):
    model, inputs, couplings = odd
    settings = {"criterion": criterion, "granularity": Channel(), "scope": Local(), "couplings": couplings}
    selection = select_masks(model, 0.5, **settings)
    assert {name: int(kept.sum()) for name, kept in selection.kept_channels.items()} == {
        "table": 3,
        "down": 4,
        "up": 3,
        "kernel": 2,
    }
    assert "blur" not in selection.masks  # a fixed kernel is no weight
    assert selection.masks.keys() == {
        *("table.weight", "mix.weight", "down.weight", "up.weight", "kernel", "out.weight"),
    }
    result = cut(model, couplings, selection.kept_channels, inputs)
    assert result.proof.holds and not result.rejected
    for name, mask in selection.masks.items():
        assert result.model.get_parameter(name).numel() == int(mask.sum())


def test_scores_are_of_slices_along_the_outputs(odd):
    model, _, couplings = odd
    with torch.no_grad():
        model.up.weight.fill_(1.0)[:, 4] = 0.1
        model.table.weight.fill_(1.0)[:, 2] = 0.1
    kept = select_masks(
        model, 0.1, criterion=L2(), granularity=Channel(), scope=Local(), couplings=couplings
    ).kept_channels
    assert kept["up"].tolist() == [True] * 4 + [False, True]
    assert kept["table"].tolist() == [True] * 2 + [False] + [True] * 3


def test_other_weights_compete_once_there_is_evidence_of_them(odd):
    model, _, couplings = odd
    settings = {"criterion": Taylor(), "granularity": Channel(), "scope": Local(), "couplings": couplings}
    known = {
        "down.weight": Evidence(taylor_gate=torch.rand(8)),
        "mix.weight": Evidence(taylor_gate=torch.rand(3)),
        "out.weight": Evidence(taylor_gate=torch.rand(3)),
    }
    assert list(select_masks(model, 0.3, **settings, evidence=known).kept_channels) == ["down"]
    known["up.weight"] = Evidence(taylor_gate=torch.tensor([0.5, 0.1, 0.5, 0.5, 0.5, 0.5]))
    kept = select_masks(model, 0.1, **settings, evidence=known).kept_channels
    assert sorted(kept) == ["down", "up"]
    assert kept["up"].tolist() == [True, False] + [True] * 4
    with pytest.raises(MissingEvidence, match="down"):
        select_masks(model, 0.3, **settings, evidence={})


def test_ignored_layers_keep_all_their_weights(residual):
    masks = select_masks(
        residual, 0.5, criterion=L1(), granularity=Weight(), scope=Local(), ignore=["stem", "h*"]
    ).masks
    assert list(masks) == ["conv1.weight", "conv2.weight"]


def test_a_channel_is_ignored_with_the_layer_that_writes_it(residual, couplings):
    kept = select_masks(
        residual,
        0.5,
        criterion=L1(),
        granularity=Channel(),
        scope=Local(),
        couplings=couplings,
        ignore=["conv2"],
    ).kept_channels
    assert list(kept) == ["conv1"]


def test_given_and_erk_decide_per_layer(residual):
    settings = {"criterion": L1(), "granularity": Weight(), "scope": Local()}
    given = select_masks(residual, 0.5, **settings, allocation=Given({"stem": 0.25})).masks
    sparsity = {name: 1 - mask.float().mean().item() for name, mask in given.items()}
    assert sparsity["stem.weight"] == pytest.approx(0.25, abs=0.01)
    assert sparsity["conv1.weight"] == pytest.approx(0.5, abs=0.01)
    erk = select_masks(residual, 0.5, **settings, allocation=Erk())
    assert 0.5 <= erk.sparsity <= 0.5 + len(erk.masks) / erk.masks.total


def test_floors_are_reported(residual, couplings):
    selection = select_masks(
        residual,
        0.9,
        criterion=L1(),
        granularity=Channel(floor_fraction=0.5),
        scope=Global(count="units"),
        couplings=couplings,
    )
    assert {name: int(kept.sum()) for name, kept in selection.kept_channels.items()} == {
        "stem": 2,
        "conv1": 3,
    }
    assert selection.shortfall == pytest.approx(0.4)


@pytest.mark.parametrize("criterion", [Fpgm(), Taylor(), Pcas()], ids=["fpgm", "taylor", "pcas"])
def test_a_criterion_of_channels_refuses_smaller_units(residual, criterion):
    with pytest.raises(RecipeError, match="one score an output channel"):
        select_masks(residual, 0.5, criterion=criterion, granularity=Weight(), scope=Global())


def test_mistakes_are_named(residual):
    settings = {"criterion": L1(), "granularity": Filter(), "scope": Global()}
    with pytest.raises(RecipeError, match=r"\[0, 1\), got 1"):
        select_masks(residual, 1.0, **settings)
    with pytest.raises(RecipeError, match="'convx'"):
        select_masks(residual, 0.5, **settings, ignore=["convx"])
    with pytest.raises(UsageError, match=r"0 convolutions and linear layers"):
        select_masks(nn.ReLU(), 0.5, **settings)
    with pytest.raises(MissingEvidence, match=r"stem\.weight has no 'gate'"):
        select_masks(residual, 0.5, **(settings | {"criterion": Pcas()}))
    with torch.no_grad():
        residual.conv1.weight[0, 0, 0, 0] = float("inf")
    with pytest.raises(TrainingDiverged, match=r"conv1\.weight by 'l1' are not finite"):
        select_masks(residual, 0.5, **settings)


class Scaled(nn.Module):
    """A loose parameter scales what `a` reads; the weights are square, so that a mix-up fits in shape."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.a, self.b = nn.Parameter(torch.randn(6)), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(self.scale * x.mean(1, keepdim=True)).relu())


def test_evidence_about_outputs_does_not_judge_what_is_read():
    torch.manual_seed(0)
    model = Scaled()
    couplings = couple(model, torch.randn(2, 6))
    assert [c.name for c in couplings.free] == ["a input", "a"]
    known = {"a.weight": Evidence("a.weight", taylor_gate=torch.arange(6.0))}
    choice = select_masks(
        model,
        0.3,
        criterion=Taylor(),
        granularity=Channel(),
        scope=Local(),
        evidence=known,
        couplings=couplings,
    )
    assert set(choice.kept_channels) == {"a"}
    by_weight = select_masks(
        model, 0.3, criterion=L2(), granularity=Channel(), scope=Local(), couplings=couplings
    )
    assert set(by_weight.kept_channels) == {"a input", "a"}
