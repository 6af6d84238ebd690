"""Where the names of points go in a chart: beside their own point, inside, and never over each other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, hypot, log

LETTER, LINE = 5.7, 15
LIFTS = (0, -13, 13, -26, 26, -40, 40, -56, 56, -74, 74)
LONGEST = 28

# Left, top, width, height in pixels.
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Frame:
    """Turns costs and accuracies into pixels of a chart and back.

    Attributes:
        x, y: where the axes begin and end.
        logarithmic: whether the costs' axis is.
        width, height: of the chart, in pixels.
    """

    x: Sequence[float]
    y: Sequence[float]
    logarithmic: bool
    width: float
    height: float

    def across(self, cost: float) -> float:
        """Pixels from the left."""
        if self.logarithmic:
            return log(cost / self.x[0]) / log(self.x[1] / self.x[0]) * self.width
        return (cost - self.x[0]) / (self.x[1] - self.x[0]) * self.width

    def down(self, accuracy: float) -> float:
        """Pixels from the top."""
        return (self.y[1] - accuracy) / (self.y[1] - self.y[0]) * self.height

    def value(self, across: float, down: float) -> tuple[float, float]:
        """Cost and accuracy at a pixel."""
        share = across / self.width
        if self.logarithmic:
            cost = self.x[0] * exp(share * log(self.x[1] / self.x[0]))
        else:
            cost = self.x[0] + share * (self.x[1] - self.x[0])
        return cost, self.y[1] - down / self.height * (self.y[1] - self.y[0])


@dataclass(frozen=True)
class Named:
    """A point, and its name if it is to have one; those that come first choose first.

    Attributes:
        low, high: the ends of its bar, if it is drawn.
    """

    cost: float
    accuracy: float
    low: float | None
    high: float | None
    on_front: bool
    name: str | None


@dataclass(frozen=True)
class Label:
    """Where a name stands.

    Attributes:
        cost, accuracy: of its end that is nearer to its point, at half its height.
        before: whether it ends there, left of its point, instead of beginning there.
        end: of the line to its point, where that is not plainly the nearest.
    """

    words: str
    cost: float
    accuracy: float
    before: bool
    point: tuple[float, float]
    end: tuple[float, float] | None


def place(points: Sequence[Named], frame: Frame) -> list[Label]:
    """The labels that find room, each nearest to its own point, or joined to it by a line."""
    spots = [(frame.across(p.cost), frame.down(p.accuracy)) for p in points]
    taken: list[Box] = [(x - 6, y - 6, 12, 12) for x, y in spots]
    level, upright = _lines(points, frame)
    labels = []
    for point, own in zip(points, spots, strict=True):
        if point.name is None:
            continue
        words = point.name if len(point.name) <= LONGEST else point.name[: LONGEST - 1] + "…"
        others = [spot for spot in spots if spot != own]
        ways = [([*taken, *level, *upright], others), ([*taken, *level], others), ([*taken, *level], [])]
        found = next(
            (box for way in ways if (box := _box(own, len(words) * LETTER, *way, frame)) is not None), None
        )
        if found is None:
            continue
        taken.append(found)
        far = _apart(found, own) > 16 or not _nearest(found, own, others)
        end = frame.value(*_closest(found, own)) if far else None
        before = found[0] + found[2] < own[0]
        cost, accuracy = frame.value(found[0] + (found[2] if before else 0.0), found[1] + LINE / 2)
        labels.append(Label(words, cost, accuracy, before, (point.cost, point.accuracy), end))
    return labels


def _lines(points: Sequence[Named], frame: Frame) -> tuple[list[Box], list[Box]]:
    """Where lines run level, which labels never cross, and upright, which they cross only if they must."""
    front = sorted((p for p in points if p.on_front), key=lambda p: (p.cost, p.accuracy))
    spots = [(frame.across(p.cost), frame.down(p.accuracy)) for p in front]
    level: list[Box] = []
    upright: list[Box] = []
    for (x, y), (right, upper) in pairwise([*spots, *((frame.width, y) for _, y in spots[-1:])]):
        level.append((x, y - 1, right - x, 2))
        upright.append((right - 1, upper, 2, y - upper))
    for point, (x, _) in zip(front, spots, strict=True):
        if point.low is not None and point.high is not None:
            top = frame.down(point.high)
            upright.append((x - 2, top, 4, frame.down(point.low) - top))
    return level, upright


def _box(
    own: tuple[float, float],
    width: float,
    taken: Sequence[Box],
    others: Sequence[tuple[float, float]],
    frame: Frame,
) -> Box | None:
    """The first box near a point that is inside, covers nothing taken, and lies nearest to that point."""
    for left, middle in _sides(own, width):
        box = (left, middle - LINE / 2, width, LINE)
        inside = left >= 0 and left + width <= frame.width and box[1] >= 0 and box[1] + LINE <= frame.height
        if inside and not any(_meet(box, other) for other in taken) and _nearest(box, own, others):
            return box
    return None


def _sides(own: tuple[float, float], width: float) -> Iterator[tuple[float, float]]:
    x, y = own
    for lift in LIFTS:
        lefts = [x + 10, x - 10 - width] if abs(lift) < 20 else [x + 10, x - 10 - width, x - width / 2]
        yield from ((left, y + lift) for left in lefts)


def _meet(one: Box, other: Box) -> bool:
    across = one[0] < other[0] + other[2] and other[0] < one[0] + one[2]
    return across and one[1] < other[1] + other[3] and other[1] < one[1] + one[3]


def _closest(box: Box, spot: tuple[float, float]) -> tuple[float, float]:
    """The point of a box that is nearest to a spot."""
    return (
        min(max(spot[0], box[0]), box[0] + box[2]),
        min(max(spot[1], box[1]), box[1] + box[3]),
    )


def _apart(box: Box, spot: tuple[float, float]) -> float:
    x, y = _closest(box, spot)
    return hypot(x - spot[0], y - spot[1])


def _nearest(box: Box, own: tuple[float, float], others: Sequence[tuple[float, float]]) -> bool:
    return all(_apart(box, own) + 2 < _apart(box, other) for other in others)
