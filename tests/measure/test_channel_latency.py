import pytest
import torch
from torch import Tensor, nn

from kezuri.core.errors import UsageError
from kezuri.measure.channel_cost import channel_costs
from kezuri.measure.channel_latency import ChannelLatencies, ChannelTimer, alike
from kezuri.model.coupling import couple
from kezuri.model.families import Couplings
from kezuri.model.load import load_model

SHAPE = (3, 12, 12)


class Small(nn.Module):
    """Two layers alike; and a flattening, whose size the export writes down as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.left = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
        self.right = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
        self.last = nn.Linear(512, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        logits: Tensor = self.last((self.left(x) + self.right(x)).flatten(1))
        return logits


def timed(model: nn.Module, timer: ChannelTimer) -> tuple[Couplings, ChannelLatencies]:
    couplings = couple(model, torch.zeros(2, *SHAPE), result="auto")
    return couplings, timer.time(model, couplings, SHAPE, costs=channel_costs(model, couplings, SHAPE))


def test_every_channel_that_can_go_is_timed() -> None:
    couplings, found = timed(Small().eval(), ChannelTimer(budget_seconds=600))
    assert not found.untimed
    assert found.dense is not None and found.dense.conditions["runtime"] == "onnxruntime"
    assert list(found.channels) and set(found.channels) == {one.name for one in couplings.free}
    for one in found.channels.values():
        assert one.unit == "ms" and one.low is not None and one.high is not None
        assert one.low <= one.value <= one.high
        assert one.conditions["threads"] == 1
    both = ["left.0", "right.0"]
    assert found.channels["left.0"] == found.channels["right.0"]
    assert found.channels["left.0"].conditions["together"] == both
    assert found.channels["left.0"].conditions["removed"] == 16  # half of both
    assert found.channels["first"].conditions["removed"] == 4


def test_without_time_left_nothing_is_said_to_be_measured() -> None:
    couplings, found = timed(Small().eval(), ChannelTimer(budget_seconds=1e-6))
    assert not found.channels
    assert set(found.untimed) == {one.name for one in couplings.free}
    assert all("were over" in why for why in found.untimed.values())


def test_couplings_that_are_cut_together_share_no_weight() -> None:
    model = load_model("vgg16_bn", classes=10, image_shape=(3, 32, 32))
    couplings = couple(model, torch.zeros(2, 3, 32, 32))
    costs = channel_costs(model, couplings, (3, 32, 32))
    groups = alike(couplings, costs)
    assert {one.name for group in groups for one in group} == {one.name for one in couplings.free}
    for group in groups:
        weights = [member.parameter for one in group for member in one.members]
        assert len(set(weights)) == len(weights)
        assert len({(one.width, costs.macs[one.name]) for one in group}) == 1
    work = [sum(one.width * costs.macs[one.name] for one in group) for group in groups]
    assert work == sorted(work, reverse=True)


def test_equal_layers_on_images_of_different_size_are_not_alike() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(288, 2)
    )
    couplings = couple(model, torch.zeros(2, *SHAPE))
    groups = alike(couplings, channel_costs(model, couplings, SHAPE))
    assert [len(group) for group in groups] == [1, 1, 1]


def test_a_model_that_cannot_be_exported_is_said_to_be_so() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 4, 3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.eigvals(self.body(x)[..., :3, :3]).abs().sum((1, 2))

    couplings, found = timed(Odd().eval(), ChannelTimer())
    assert found.dense is None and set(found.untimed) == {one.name for one in couplings.free}
    assert all("cannot be exported" in why for why in found.untimed.values())


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="above 0"):
        ChannelTimer(budget_seconds=0)


def test_it_is_timed_where_asked() -> None:
    with pytest.raises(UsageError, match="which torch does not run"):
        ChannelTimer(runtime="torch")
    pytest.importorskip("openvino")
    _, found = timed(Small().eval(), ChannelTimer(runtime="openvino", budget_seconds=600))
    assert found.dense is not None and found.channels and not found.untimed
    held = {one.conditions["runtime"] for one in (found.dense, *found.channels.values())}
    assert held == {"openvino"}
