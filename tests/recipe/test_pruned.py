import pytest
import torch
from torch import nn

import kezuri
from kezuri.core.errors import UsageError
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


def test_a_saved_model_comes_back(pruned, tmp_path):
    pruned.save(tmp_path)
    back = kezuri.read_model(tmp_path, build=lambda: zoo["resnet8"]())
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(back.model(images), pruned.model(images))
    assert (back.classes, back.image_shape) == (10, (3, 16, 16))


def test_what_cannot_be_rebuilt_is_not_saved(tmp_path):
    torch.manual_seed(0)
    found = prune_channels(Scaled().eval(), torch.zeros(2, 4))
    with pytest.raises(UsageError, match=r"pruned\.structure\.to_json"):
        found.save(tmp_path)
    assert not list(tmp_path.iterdir())
