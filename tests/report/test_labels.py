"""Names stand beside their own points."""

from math import hypot

import pytest

from kezuri.report.labels import LETTER, LINE, Frame, Named, place

FRAME = Frame((0, 100), (90, 100), logarithmic=False, width=680, height=380)


def box(label):
    width = len(label.words) * LETTER
    x, y = FRAME.across(label.cost), FRAME.down(label.accuracy)
    return (x - width if label.before else x, y - LINE / 2, width, LINE)


def apart(found, spot):
    x = min(max(spot[0], found[0]), found[0] + found[2])
    y = min(max(spot[1], found[1]), found[1] + found[3])
    return hypot(x - spot[0], y - spot[1])


def test_a_label_is_nearest_to_its_own_point_or_has_a_line_to_it():
    points = [Named(50 + i % 3, 95 + i * 0.13, None, None, i == 9, f"condition {i}") for i in range(10)]
    spots = {p.name: (FRAME.across(p.cost), FRAME.down(p.accuracy)) for p in points}
    labels = place(points, FRAME)
    assert len(labels) > 6
    for label in labels:
        own = apart(box(label), spots[label.words])
        others = [apart(box(label), spot) for name, spot in spots.items() if name != label.words]
        assert label.end is not None or own < min(others)
    assert any(label.end is None for label in labels)


def test_labels_cover_neither_points_nor_each_other_and_stay_inside():
    points = [
        Named(2 + 4.8 * i, 91 + i * 0.4, None, None, True, "a rather long name indeed, and more")
        for i in range(20)
    ]
    boxes = [box(label) for label in place(points, FRAME)]
    for i, (x, y, width, height) in enumerate(boxes):
        assert x >= -1e-6 and x + width <= 680 + 1e-6 and y >= -1e-6 and y + height <= 380 + 1e-6
        for other in boxes[:i]:
            across = x < other[0] + other[2] and other[0] < x + width
            assert not (across and y < other[1] + other[3] - 1e-6 and other[1] < y + height - 1e-6)


def test_points_without_a_name_have_no_label():
    assert place([Named(50, 95, None, None, False, None)], FRAME) == []


@pytest.mark.parametrize("logarithmic", [False, True])
def test_a_frame_goes_there_and_back(logarithmic):
    frame = Frame((1, 100), (90, 100), logarithmic=logarithmic, width=680, height=380)
    assert frame.value(frame.across(7), frame.down(93)) == pytest.approx((7, 93))
