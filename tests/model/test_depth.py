import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kezuri.core.errors import ModelError, ProofFailed, UnknownName, UsageError
from kezuri.model.coupling import couple
from kezuri.model.depth import Blocks, drop_blocks, find_blocks, silence_blocks_, without
from kezuri.model.load import load_model
from kezuri.model.proof import cut
from kezuri.model.shrink import Structure, shrink_

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


def zoo(name: str) -> nn.Module:
    return load_model(name, classes=4, image_shape=(3, 16, 16)).eval()


def free(blocks: Blocks) -> list[str]:
    return [block.name for block in blocks.free]


class Half(nn.Module):
    """x + fc(norm(x))"""

    def __init__(self, layer: nn.Module | None = None) -> None:
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(8), layer or nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc(self.norm(x))


class Encoder(nn.Module):
    """Two sums in one module; `second` may be a module with a sum of its own."""

    def __init__(self, second: nn.Module) -> None:
        super().__init__()
        self.norm, self.mix, self.fc1, self.fc2 = (
            nn.LayerNorm(8),
            nn.Linear(8, 8),
            nn.Linear(8, 16),
            nn.Linear(16, 8),
        )
        self.second = second

    def forward(self, x: Tensor) -> Tensor:
        return self.second(x + self.fc2(self.fc1(self.norm(x)).tanh()) + self.mix(x))


class Wrapped(nn.Module):
    """Any parts, one after the other, in a module with a forward of its own."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x


def test_blocks_of_a_residual_network() -> None:
    blocks = find_blocks(zoo("resnet20"), IMAGES)
    assert free(blocks) == [f"layer{stage}.{at}" for stage in (1, 2, 3) for at in range(stage > 1, 3)]
    assert [block.name for block in blocks] == [
        f"layer{stage}.{at}" for stage in (1, 2, 3) for at in range(3)
    ]
    assert blocks.named("layer2.0").reason == "changes the shape of its input, 16x16x16 to 32x8x8"
    assert blocks.named("layer1.1").ends == tuple(
        f"layer1.1.bn2.{leaf}" for leaf in ("weight", "bias", "running_mean")
    )
    assert blocks.named("layer1.1").params == 2 * (16 * 16 * 9 + 2 * 16)
    rows = {row.block: (row.state, row.reason) for row in blocks.explain(["layer3.2"])}
    assert rows["layer3.2"] == ("dropped", None) and rows["layer3.1"] == ("kept", None)
    assert rows["layer3.0"] == ("blocked", blocks.named("layer3.0").reason)


def test_inverted_residuals_and_encoder_blocks_are_blocks() -> None:
    mobile = find_blocks(zoo("mobilenet_v2"), IMAGES)
    assert free(mobile) == [f"blocks.{at}" for at in (2, 4, 5, 7, 8, 9, 11, 12, 14, 15)]
    vit = find_blocks(zoo("vit_tiny"), IMAGES)
    assert free(vit) == [block.name for block in vit] == [f"blocks.{at}" for at in range(6)]
    ends = {end.removeprefix("blocks.3.") for end in vit.named("blocks.3").ends}
    assert ends == {"attention.project.weight", "attention.project.bias", "fc2.weight", "fc2.bias"}


def test_blocks_that_do_not_add_their_input_are_told() -> None:
    blocks = find_blocks(zoo("mobilenet_v1"), IMAGES)
    assert free(blocks) == []
    assert blocks.named("blocks.2").reason == "does not add its input, or scales the sum"


@pytest.mark.parametrize("second", [nn.Identity(), Half(), nn.LayerNorm(8), nn.Linear(8, 8)])
def test_of_sums_in_one_module_all_must_end_in_zeros(second: nn.Module) -> None:
    blocks = find_blocks(nn.Sequential(Encoder(second), nn.Linear(8, 2)), TOKENS)
    if isinstance(second, nn.LayerNorm | nn.Linear):
        assert blocks.named("0").reason == "does not add its input, or scales the sum"
        return
    ends = {end.removeprefix("0.") for end in blocks.named("0").ends}
    mine = {"fc2.weight", "fc2.bias", "mix.weight", "mix.bias"}
    assert ends == mine | ({"second.fc.weight", "second.fc.bias"} if isinstance(second, Half) else set())
    assert free(blocks) == ["0"]


def test_a_chain_of_blocks_is_none_but_its_blocks_are() -> None:
    model = nn.Sequential(Wrapped(Half(), Wrapped(Half(), Half())), nn.Linear(8, 2))
    assert free(find_blocks(model, TOKENS)) == ["0.parts.0", "0.parts.1.parts.0", "0.parts.1.parts.1"]
    assert [b.name for b in find_blocks(model, TOKENS)] == free(find_blocks(model, TOKENS))


def test_branches_that_are_zero_already_are_found_all_the_same() -> None:
    def make(zeros: bool) -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(Encoder(Half()), Half(), nn.Linear(8, 2))
        for layer in (model[0].fc2, model[0].mix, model[0].second.fc, model[1].fc) if zeros else ():
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        return model

    assert list(find_blocks(make(True), TOKENS)) == list(find_blocks(make(False), TOKENS))
    assert free(find_blocks(make(True), TOKENS)) == ["0", "1"]


class Rectified(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.conv(x))


def test_a_relu_behind_the_sum_is_nothing_only_where_it_is_given_no_negative_number() -> None:
    blocks = find_blocks(nn.Sequential(Rectified(), Rectified(), nn.Flatten(), nn.Linear(768, 2)), IMAGES)
    assert free(blocks) == ["1"]
    assert blocks.named("0").reason == "changes its input even where its branches are zero"


class Odd(nn.Module):
    """Blocks that are called in other ways than with one tensor, or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.two, self.more, self.named, self.never = Half(), Half(), Half(), Half()
        self.shared, self.other, self.dead = Half(), Half(), Half()
        self.other.fc.weight = self.shared.fc.weight
        self.head = nn.Linear(8, 2)
        self.two.forward = lambda x, y: x + y + self.two.fc(x)
        self.more.forward = lambda x: (x + self.more.fc(x), x)
        self.named.forward = lambda given: given + self.named.fc(given)

    def forward(self, x: Tensor) -> Tensor:
        x = self.more(self.two(x, x))[0]
        x = self.named(given=x) + self.dead(torch.zeros_like(x))
        return self.head(self.other(self.shared(x)))


def test_every_block_that_must_stay_says_why() -> None:
    blocks = find_blocks(Odd(), TOKENS)
    assert {block.name: block.reason for block in blocks} == {
        "two": "takes more than one tensor",
        "more": "gives something else than one tensor",
        "named": "takes more than one tensor",
        "never": "the example does not reach it",
        "shared": "shares weights with other.fc",
        "other": "shares weights with shared.fc",
        "dead": "nothing but zeros reaches it",
    }


def test_a_block_that_runs_twice_is_dropped_twice() -> None:
    torch.manual_seed(0)
    half = Half()
    model = nn.Sequential(half, nn.Tanh(), half, nn.Linear(8, 2)).eval()
    blocks = find_blocks(model, TOKENS)
    assert free(blocks) == ["0"]
    result = drop_blocks(model, blocks, ["0"], TOKENS)
    assert result.proof.holds
    torch.testing.assert_close(result.model(TOKENS), model[3](TOKENS.tanh()))


def test_protected_blocks_stay() -> None:
    model = zoo("resnet20")
    assert free(find_blocks(model, IMAGES, protect=["layer1", "layer2.1.conv1", "layer3.?"])) == ["layer2.2"]
    blocks = find_blocks(model, IMAGES, protect=["layer1"])
    assert blocks.named("layer1.2").reason == "protected"
    assert "changes the shape" in str(blocks.named("layer2.0").reason)
    with pytest.raises(UsageError, match="no module is named 'layer9'"):
        find_blocks(model, IMAGES, protect=["layer9"])


def test_the_model_is_left_as_it_was() -> None:
    model = zoo("resnet20").train()
    before = copy.deepcopy(model.state_dict())
    blocks = find_blocks(model, IMAGES)
    drop_blocks(model, blocks, free(blocks), IMAGES)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "vit_tiny"])
def test_dropping_is_silencing_and_it_is_proved(name: str) -> None:
    model = zoo(name)
    blocks = find_blocks(model, IMAGES)
    chosen = free(blocks)[1::2]
    result = drop_blocks(model, blocks, chosen, IMAGES)
    assert result.proof.holds and result.rejected == {} and result.rewritten is None
    assert result.structure == Structure(dropped=tuple(chosen))
    assert all(type(result.model.get_submodule(name)) is nn.Identity for name in chosen)
    silent = copy.deepcopy(model)
    silence_blocks_(silent, blocks, chosen)
    assert torch.equal(silent(IMAGES), result.masked(IMAGES))
    torch.testing.assert_close(result.model(IMAGES), silent(IMAGES))
    assert not torch.allclose(result.model(IMAGES), model(IMAGES))
    again = find_blocks(result.model, IMAGES)
    assert free(again) == [name for name in free(blocks) if name not in chosen]


def test_a_model_may_run_without_a_block_for_a_while() -> None:
    model = zoo("resnet20")
    whole = model(IMAGES)
    blocks = find_blocks(model, IMAGES)
    shorter = drop_blocks(model, blocks, ["layer2.1"], IMAGES).model
    with without(model, "layer2.1"):
        assert torch.equal(model(IMAGES), shorter(IMAGES))
    assert torch.equal(model(IMAGES), whole)


class Peeking(nn.Module):
    """Its own code looks inside one of its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Half(), Half(), Half())
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x) * self.blocks[1].norm.weight.mean())


def test_blocks_with_which_the_proof_fails_stay_and_are_named() -> None:
    torch.manual_seed(0)
    model = Peeking()
    blocks = find_blocks(model, TOKENS)
    result = drop_blocks(model, blocks, free(blocks), TOKENS)
    assert result.structure.dropped == ("blocks.0", "blocks.2")
    assert list(result.rejected) == ["blocks.1"]
    assert "the cut model fails" in result.rejected["blocks.1"]


def test_a_model_that_cannot_be_proved_at_all_is_refused() -> None:
    class Random(Peeking):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.rand(())

    model = Random()
    blocks = find_blocks(model, TOKENS)
    with pytest.raises(ProofFailed, match="cannot be proved even whole"):
        drop_blocks(model, blocks, free(blocks), TOKENS)


def test_what_cannot_be_dropped_is_said() -> None:
    model = zoo("resnet20")
    blocks = find_blocks(model, IMAGES)
    with pytest.raises(UsageError, match=r"the block 'layer2.0' cannot be dropped: changes the shape"):
        drop_blocks(model, blocks, ["layer2.0"], IMAGES)
    with pytest.raises(UnknownName, match=r"no block named 'layer2.7' .*did you mean 'layer2\.[012]'"):
        silence_blocks_(model, blocks, ["layer2.7"])
    with pytest.raises(UsageError, match="inplace=True"):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        drop_blocks(model, blocks, ["layer1.1"], IMAGES, optimizer=optimizer)
    with pytest.raises(ModelError, match=r"does not accept an input of shape \(2, 5, 16, 16\)"):
        find_blocks(model, torch.zeros(2, 5, 16, 16))


def test_training_goes_on_in_place() -> None:
    model = zoo("resnet8").train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(IMAGES), torch.tensor([0, 1])).backward()
        optimizer.step()

    step()
    blocks = find_blocks(model, IMAGES)
    result = drop_blocks(model, blocks, ["layer1.0"], IMAGES, optimizer=optimizer, inplace=True)
    assert result.model is model and model.training
    before = model.conv1.weight.clone()
    step()
    assert not torch.equal(before, model.conv1.weight)
    assert {id(p) for p in optimizer.state} == {id(p) for p in model.parameters()}


def thinner(model: nn.Module) -> tuple[nn.Module, Structure]:
    couplings = couple(model, IMAGES)
    result = cut(model, couplings, {c.name: torch.arange(c.width) % 3 > 0 for c in couplings.free}, IMAGES)
    assert result.structure.kept and result.proof.holds
    return result.model, result.structure


def shallower(model: nn.Module, name: str) -> tuple[nn.Module, Structure]:
    result = drop_blocks(model, find_blocks(model, IMAGES), [name], IMAGES)
    assert result.structure.dropped and result.proof.holds
    return result.model, result.structure


def test_channels_may_be_cut_before_and_after() -> None:
    dense = zoo("resnet20")
    model, structure = dense, Structure()
    for name in ("layer1.1", "layer3.2"):
        model, later = thinner(model)
        structure = structure.then(later)
        model, later = shallower(model, name)
        structure = structure.then(later)
    model, later = thinner(model)
    structure = structure.then(later)
    assert structure.dropped == ("layer1.1", "layer3.2")
    assert not any(name.startswith(("layer1.1.", "layer3.2.")) for name in structure.kept)
    again = copy.deepcopy(dense)
    shrink_(again, Structure.from_json(structure.to_json()))
    assert torch.equal(again(IMAGES), model(IMAGES))
