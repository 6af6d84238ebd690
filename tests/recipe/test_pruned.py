import pytest
import torch
from torch import nn

import kezuri
from kezuri.core.errors import NotFollowed
from kezuri.model.zoo import zoo
from kezuri.recipe.prune_channels import prune_channels

IMAGES = torch.zeros(2, 3, 16, 16)


class Scaled(nn.Module):
    """Loose queries that no layer produces, and one that reads them."""

    def __init__(self):
        super().__init__()
        self.queries, self.head = nn.Parameter(torch.randn(1, 3, 12)), nn.Linear(12, 5)

    def forward(self, x):
        return self.head(self.queries * x[:, :1, None])


@pytest.fixture(scope="module")
def pruned():
    torch.manual_seed(0)
    return prune_channels(zoo["resnet8"]().eval(), IMAGES, round_to=8)


def test_the_report_is_a_table_with_totals(pruned):
    rows = list(pruned.report)
    assert len(rows) == len(pruned.report) and {row.state for row in rows} == {"cut", "kept", "blocked"}
    lines = str(pruned.report).splitlines()
    assert lines[0].split() == ["layer", "channels", "kept", "state", "why"]
    for row, line in zip(rows, lines[1:], strict=False):
        shown = [row.layer, str(row.width), str(row.kept), row.state, *(row.reason or "").split()]
        assert line.split() == shown
    totals = "\n".join(lines[len(rows) + 1 :])
    assert f"{len(rows)} layers: " in totals and " 1 blocked" in totals
    share = pruned.after.params / pruned.before.params
    assert f"{pruned.before.params:,} → {pruned.after.params:,} ({share:.1%})" in totals
    assert f"{pruned.proof:.1e} (3 random inputs, float32; allowed is 1e-05)" in totals
    assert "result: your own module, ResNet" in totals


def test_what_no_layer_produces_has_a_row_of_its_own():
    torch.manual_seed(0)
    found = prune_channels(Scaled().eval(), torch.zeros(2, 4), criterion="l1")
    rows = {row.layer: row for row in found.report}
    assert (rows["head input"].width, rows["head input"].kept, rows["head input"].state) == (12, 6, "cut")
    assert found.model.queries.shape == (1, 3, 6) and found.proof <= 1e-5


class Headed(nn.Module):
    """Heads as numbers in the code: only a program can lose them."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 48), nn.Linear(16, 5)

    def forward(self, x):
        q, k, v = self.qkv(x).view(-1, 6, 3, 4, 4).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(-1, 6, 16))


@pytest.mark.parametrize(
    ("build", "shape"),
    [(zoo["resnet8"], (2, 3, 16, 16)), (Scaled, (2, 4)), (Headed, (2, 6, 8))],
    ids=["images", "loose", "program"],
)
def test_a_saved_model_comes_back(build, shape, tmp_path):
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(shape)
    found = prune_channels(model, torch.zeros(shape), round_to=1)
    assert (found.rewritten is not None) == (build is Headed)
    found.save(tmp_path)
    weights = model.state_dict()
    back = kezuri.read_model(tmp_path, build=build)
    assert torch.equal(back.model(x), found.model(x))
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


def test_an_optimizer_goes_on_after_a_cut(tmp_path):
    torch.manual_seed(0)
    model, x = Scaled(), torch.randn(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(trained, with_):
        with_.zero_grad()
        trained(x).square().mean().backward()
        with_.step()

    step(model, optimizer)
    found = prune_channels(model, torch.zeros(2, 4), inplace=True, optimizer=optimizer)
    assert found.model is model
    found.save(tmp_path, optimizer=optimizer)
    step(model, optimizer)
    back = kezuri.read_model(tmp_path, build=Scaled)
    again = torch.optim.SGD(back.model.parameters(), lr=0.1, momentum=0.9)
    back.load_optimizer_(again)
    step(back.model, again)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), back.model.parameters(), strict=True))


def test_a_model_that_cannot_be_followed_is_cut_inside_its_modules():
    class Deciding(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 5))

        def forward(self, x):
            return self.inner(x) if x.sum() > -1e9 else x

    torch.manual_seed(0)
    model = Deciding().eval()
    with pytest.raises(NotFollowed, match="fallback=True"):
        prune_channels(model, torch.zeros(2, 4))
    found = prune_channels(model, torch.zeros(2, 4), fallback=True)
    assert found.model.inner[0].out_features == 8 and found.proof <= 1e-5
