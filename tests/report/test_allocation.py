import re

import pytest
import vl_convert

from kezuri.core.errors import UsageError
from kezuri.report.allocation import allocation_chart
from kezuri.report.plots import png, spec


def point(cost, loss, **more):
    return {"size": cost, "macs": cost * 100, "latency": cost / 1e6, "loss": loss, **more}


FRONT = [point(1e6, 0.5), point(2e6, 0.1), point(4e6, 0.0)]
UNIFORM = [point(4e6, 0.0, name="8 bits"), point(2.5e6, 0.3, name="4 bits, 50% sparse")]


def content(metric="size", chosen=FRONT[1], uniform=UNIFORM):
    return {"metric": metric, "front": FRONT, "uniform": uniform, "chosen": chosen}


@pytest.mark.parametrize(
    ("metric", "axis", "first"),
    [("size", "size (MB)", 1), ("macs", "MACs (M)", 100), ("latency", "latency (ms)", 1)],
)
def test_every_choice_is_a_point_in_the_unit_of_the_axis(metric, axis, first):
    drawn = spec(allocation_chart(content(metric)))
    rows = drawn["data"]["values"]
    assert [row["kind"] for row in rows] == ["layer by layer"] * 3 + ["all layers alike"] * 2 + ["chosen"]
    assert rows[0]["cost"] == pytest.approx(first)
    assert drawn["layer"][0]["encoding"]["x"]["title"] == axis


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (content(), "Size 2.00 MB at +0.100 nats: −50 % against 8 bits everywhere"),
        (
            content("macs", uniform=UNIFORM[1:]),
            "MACs 200 M at +0.100 nats; no uniform choice loses as little",
        ),
        (content(chosen=None), "3 choices of bits and sparsity that nothing beats"),
    ],
)
def test_the_title_says_what_choosing_by_layer_gains(made, said):
    assert spec(allocation_chart(made))["title"]["text"] == said


def test_costs_far_apart_go_on_a_logarithmic_axis():
    wide = content(uniform=[point(32e6, 0.0, name="32 bits")])
    kinds = [
        spec(allocation_chart(c))["layer"][0]["encoding"]["x"]["scale"].get("type") for c in (content(), wide)
    ]
    assert kinds == [None, "log"]


def test_draws_a_picture():
    assert png(allocation_chart(content())).startswith(b"\x89PNG")


def test_nothing_to_draw_is_refused():
    with pytest.raises(UsageError, match="no choice of bits"):
        allocation_chart({"metric": "size", "front": [], "uniform": [], "chosen": None})


@pytest.mark.parametrize("largest", [180_000.0, 1_200_000.0, 96.0])
@pytest.mark.parametrize("smallest", [0.3, 0.02])
def test_no_tick_has_an_exponent(largest, smallest):
    front = [point(largest * share, 0.004 / share) for share in (smallest, 0.5, 1.0)]
    chart = allocation_chart(content(uniform=[], chosen=front[1]) | {"front": front})
    svg = vl_convert.vegalite_to_svg(spec(chart))
    labels = re.findall(r">([^<>]*)</text>", svg)
    assert len(labels) > 8 and not [label for label in labels if re.search(r"\de[+−-]?\d", label)]


def test_choices_that_were_timed_are_drawn_and_told_in_words_of_time():
    alike = [point(2e6, 0.0005, name="8 bits"), point(4e6, 0.0, name="32 bits")]
    chosen = {**point(3e6, 0.0001), "options": {"a": {"bits": 8}, "b": {"bits": 32}}}
    drawn = content("latency", chosen, alike) | {"front": alike, "timed": [chosen], "whole": {"latency": 4.0}}
    rows = spec(allocation_chart(drawn))["data"]["values"]
    assert [row["kind"] for row in rows] == [
        *["layer by layer"] * 2,
        *["all layers alike"] * 2,
        "timed as a whole",
        "chosen",
    ]
    assert [row["words"] for row in rows[2:4]] == ["all in integers", "all in floats"]
    assert rows[0]["loss"] == pytest.approx(0.5)  # thousandths
    title = spec(allocation_chart(drawn))["title"]
    assert title["text"] == "1 of 2 layers in floats: 3.00 ms, −25 % against all in floats"
