import dataclasses

import pytest

from kezuri.artifact.inspection import InspectedCoupling, InspectedLayer, Inspection, Touch
from kezuri.core.measurement import Measurement
from kezuri.report.inspection import channel_time, couplings_table, headline, lines, spread, width


def timed(value: float, low: float, high: float) -> Measurement:
    return Measurement("channel_latency", value, "ms", low, high, samples=60)


def small(**changes: object) -> Inspection:
    """Two layers one after the other and a head; some names are not kind."""
    layers = (
        InspectedLayer("stem", "Conv2d", (3, 3), 3, 8, 1, 216, 50_000),
        InspectedLayer("<b>&", "Linear", (), 8, 12, 1, 96, 96),
        InspectedLayer("head", "Linear", (), 12, 5, 1, 65, 60),
        InspectedLayer("lost", "Conv2d", (1, 1), 2, 2, 1, 4, 0, "not reached, or its weight is computed"),
    )
    couplings = (
        InspectedCoupling("stem input", 3, "blocked", "input", False, (), (Touch("stem", 3),), 72, 16_000),
        InspectedCoupling(
            "stem", 8, "free", None, False, (Touch("stem", 8),), (Touch("<b>&", 8),), 39, 6_262,
            timed(0.01234, -0.00001, 0.02),
        ),
        InspectedCoupling(
            "<b>&", 3, "program", "literal size in <view>", True, (Touch("<b>&", 12),), (Touch("head", 12),),
            52, 52, None, "the 60 s for timing were over",
        ),
        InspectedCoupling("head", 5, "blocked", "graph output", False, (Touch("head", 5),), (), 13, 12),
    )  # fmt: skip
    whole = Inspection(
        "nets.py:small\x1b[2J", (3, 8, 8), 377, 50_156, layers, couplings, timed(0.5, 0.4, 0.6), "in turns"
    )
    return dataclasses.replace(whole, **changes)  # type: ignore[arg-type]


def test_a_row_for_everything_that_can_go() -> None:
    table = couplings_table(small())
    assert [row[0].text for row in table.rows] == ["stem", "<b>&"]
    text = table.text()
    assert "0.0123" in text and "−0.00001 to 0.0200" in text
    assert "3×4" in text and "program" in text and "1 → 1 shared" in text
    assert "N×M" in text and "shared:" in text


def test_a_column_stands_there_only_for_what_there_is() -> None:
    free = tuple(one for one in small().couplings if one.state == "free")
    plain = couplings_table(small(couplings=free, latency=None))
    assert {"state", "ms", "range"}.isdisjoint(column.key for column in plain.columns)
    assert couplings_table(small(couplings=())).text().count("\n") == 1


def test_the_name_the_width_and_the_cost_stay_on_the_narrowest_terminal() -> None:
    keys = [column.key for column in couplings_table(small()).fitting(40).columns]
    assert keys == ["coupling", "channels", "state", "macs", "ms"]


def test_what_was_not_measured_is_a_dash() -> None:
    assert (channel_time(None), spread(None)) == ("–", "")
    assert channel_time(timed(-0.000001, 0, 0)) == "0.00000"
    assert [channel_time(timed(value, 0, 0)) for value in (0.0123, 0.00012)] == ["0.0123", "0.00012"]


def test_reasons_are_grouped_and_nothing_is_left_out() -> None:
    said = lines(small())
    assert [heading for heading, _ in said] == ["blocked", "", "program", "ms", "no ms", "total"]
    whole = "\n".join(text for _, text in said)
    assert "graph output: head (5)" in whole and "input: stem input (3)" in whole
    assert "the 60 s for timing were over: <b>& (3×4)" in whole
    assert headline(small()) == "20 of 25 channels can go"
    assert said[-1][1].endswith("1 free, 1 free in a rewritten program only, 2 blocked couplings")


def test_long_lists_are_cut_only_where_the_table_has_them() -> None:
    blocked, free = small().couplings[:2]
    many = tuple(dataclasses.replace(free, name=f"l{at}", untimed="no time") for at in range(9))
    stuck = tuple(dataclasses.replace(blocked, name=f"b{at}") for at in range(9))
    said = dict(lines(small(couplings=(*many, *stuck))))
    assert said["no ms"].startswith("no time: l0 (8)") and said["no ms"].endswith("l5 (8), and 3 more")
    assert all(f"b{at} (3)" in said["blocked"] for at in range(9))


@pytest.mark.parametrize(("couplings", "words"), [((), "no couplings"), (small().couplings[:1], "1 blocked")])
def test_a_model_without_anything_to_cut(couplings: tuple[InspectedCoupling, ...], words: str) -> None:
    assert words in lines(small(couplings=couplings, latency=None, timed=""))[-1][1]


def test_units_of_several_channels_say_how_wide_they_are() -> None:
    assert [width(one) for one in small().couplings] == ["3", "8", "3×4", "5"]
