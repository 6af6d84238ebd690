"""The analysis ends within a stated time and memory, and says how it goes."""

from collections.abc import Mapping
from time import monotonic

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kezuri import couple
from kezuri.core.errors import NotFollowed, UsageError
from kezuri.core.progress import NullProgress
from kezuri.model.channels import DEFAULT, Channels
from kezuri.model.exported import follow
from kezuri.model.exporting import export

IMAGES = torch.zeros(2, 3, 8, 8)


class Stack(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(96, 2))


class Endless(Stack):
    def forward(self, x: Tensor) -> Tensor:
        count = 0
        while count >= 0:
            count += 1  # never ends here
        return super().forward(x)


class Long(Stack):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(1_000_000):
            x = x + 1
        return super().forward(x)


class Half(nn.Module):
    """One part can be followed; the other never ends while it is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        while torch.compiler.is_exporting():
            pass
        out: Tensor = self.head(self.body(x).mean((2, 3)))
        return out


class Diary(NullProgress):
    def __init__(self) -> None:
        self.tasks: list[str] = []
        self.made: dict[str, int] = {}
        self.total: dict[str, int] = {}
        self.open = 0

    def start(self, task: str, *, total: int, done: int) -> None:
        self.tasks.append(task)
        self.made[task], self.total[task] = done, total
        self.open += 1

    def advance(self, steps: int, figures: Mapping[str, float]) -> None:
        self.made[self.tasks[-1]] += steps

    def done(self) -> None:
        self.open -= 1


@pytest.mark.parametrize(("kind", "line"), [(Endless, "count"), (Long, "x = x + 1")])
def test_an_analysis_without_end_is_ended(kind: type[nn.Module], line: str) -> None:
    begin = monotonic()
    with pytest.raises(NotFollowed, match=r"within 1\.5 s, stopped at test_bounds\.py") as caught:
        couple(kind(), IMAGES, seconds=1.5)
    assert line in str(caught.value)
    assert monotonic() - begin < 20
    assert couple(Stack(), IMAGES).free, "and others are followed afterwards"


def test_the_parts_get_the_time_that_is_left() -> None:
    begin = monotonic()
    couplings = couple(Half(), IMAGES, seconds=8, fallback=True)
    assert [coupling.width for coupling in couplings.free] == [8]
    assert monotonic() - begin < 30


def test_no_time_is_refused() -> None:
    with pytest.raises(UsageError, match="more than 0 seconds, got 0"):
        couple(Stack(), IMAGES, seconds=0)


def test_more_positions_than_fit_are_refused() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(1, 8, 1), nn.Conv2d(8, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.first(x).flatten(1).mul(2).view(-1, 8, *x.shape[2:]))
            return out

    # 1.2e8 positions of 8 bytes: as flattened, and more than that once multiplied
    with pytest.raises(
        NotFollowed, match=r"more than 1\.07 GB of channel positions at \w+ of \(2, 8, .*smaller"
    ):
        couple(Wide(), torch.zeros(1).expand(2, 1, 4200, 4200))


def test_what_is_held_is_counted_once() -> None:
    channels = Channels(DEFAULT, most=1000)
    ids = channels.fresh(100)
    channels.hold([ids, ids])
    channels.hold([[ids], [ids[:5]]])
    assert channels._bytes == 800


def test_the_bound_on_memory_leaves_room_for_every_operation_of_a_usual_model() -> None:
    model = Stack()
    assert follow([export(model, (IMAGES,))], model)._bytes < 100_000


def test_tells_how_it_goes() -> None:
    class Doubtful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Parameter(torch.rand(6, 3)), nn.Parameter(torch.rand(2, 6))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = F.linear(F.linear(x.mean((2, 3)), self.first), self.second)
            return out

    diary = Diary()
    couple(Doubtful(), IMAGES, progress=diary)
    assert diary.tasks == ["exporting", "following", "trial cuts"]
    assert diary.open == 0
    assert diary.made == diary.total
