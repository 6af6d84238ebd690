"""A bar a layer: its bits, in the order of the network."""

from kezuri.report.bits_chart import bits_chart
from kezuri.report.plots import png, spec

OPTIONS = {
    "stem": {"bits": 8, "sparsity": 0.0},
    "body": {"bits": 4, "sparsity": 0.5},
    "head": {"bits": 8, "sparsity": 0.0},
}


def test_every_layer_has_its_bar_in_order():
    drawn = spec(bits_chart({"chosen": {"options": OPTIONS}}))
    rows = drawn["data"]["values"]
    assert [(row["layer"], row["bits"], row["words"]) for row in rows] == [
        ("stem", 8, "8"),
        ("body", 4, "4, 50 % zeros"),
        ("head", 8, "8"),
    ]
    assert drawn["layer"][0]["encoding"]["y"]["sort"] == list(OPTIONS)
    assert drawn["title"]["text"] == "3 layers: 2 of 8 bits, 1 of 4 bits"
    assert png(bits_chart({"chosen": {"options": OPTIONS}})).startswith(b"\x89PNG")


def test_nothing_chosen_is_no_chart():
    assert bits_chart({}) is None and bits_chart({"chosen": None}) is None
