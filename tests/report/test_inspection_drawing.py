import xml.etree.ElementTree as ET
from itertools import combinations

import pytest

from kezuri.artifact.inspection import InspectedCoupling, InspectedLayer, Inspection, Touch
from kezuri.report.inspection_drawing import draw, kind, lanes, what

from .test_inspection import small

SVG = "{http://www.w3.org/2000/svg}"


def chain(length: int) -> Inspection:
    """Layers one after the other, and a shortcut from the first to every other."""
    layers = tuple(InspectedLayer(f"l{at}", "Conv2d", (3, 3), 4, 4, 1, 144, 9) for at in range(length))
    steps = tuple(
        InspectedCoupling(
            f"l{at}", 4, "free", None, False, (Touch(f"l{at}", 4),), (Touch(f"l{at + 1}", 4),), 1, 1
        )
        for at in range(1, length - 1)
    )
    touches = tuple(Touch(layer.name, 4) for layer in layers)
    return Inspection("chain", (3, 8, 8), 1, 1, layers, (InspectedCoupling(
        "l0", 4, "free", None, True, touches[:1], touches[1:], 1, 1
    ), *steps))  # fmt: skip


def titles(root: ET.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}title")]


@pytest.mark.parametrize("inspection", [small(), chain(40), small(layers=(), couplings=())])
def test_the_drawing_is_well_formed_and_holds_everything(inspection: Inspection) -> None:
    root = ET.fromstring(draw(inspection))
    links = [element.get("href") for element in root.iter(f"{SVG}a")]
    assert sorted(map(str, links)) == sorted(f"#coupling-{at}" for at in range(len(inspection.couplings)))
    said = titles(root)
    for one in inspection.couplings:
        assert any(text.startswith(f"{one.name}: ") and str(one.state) in text for text in said)
    names = {element.text for element in root.iter(f"{SVG}text")}
    assert {layer.name for layer in inspection.layers} <= names


def test_reasons_stand_beside_the_blocked_ones() -> None:
    texts = {element.text for element in ET.fromstring(draw(small())).iter(f"{SVG}text")}
    assert {"input", "graph output", "not reached, or its weight is computed"} <= texts


def test_no_two_couplings_lie_on_each_other_and_a_chain_takes_one_lane() -> None:
    found = lanes(chain(40))
    assert {lane.column for lane in found} == {0, 1}
    for one, other in combinations(found, 2):
        if one.column == other.column:
            ends = [(2 * lane.first, 2 * max((*lane.writes, *lane.reads))) for lane in (one, other)]
            (_, first), (second, _) = sorted(ends)
            assert first <= second  # read at the upper half of a row, written at the lower


def test_hundreds_of_lanes_stay_within_the_page() -> None:
    layers = tuple(InspectedLayer(f"l{at}", "Linear", (), 4, 4, 1, 16, 16) for at in range(200))
    couplings = tuple(
        InspectedCoupling(f"l{at}", 4, "free", None, False, (Touch(f"l{at}", 4),), (Touch("l199", 4),), 1, 1)
        for at in range(199)
    )
    root = ET.fromstring(draw(Inspection("dense", (3, 8, 8), 1, 1, layers, couplings)))
    edge = float(root.get("width", 0))
    assert edge < 1600
    assert all(float(dot.get("cx", 0)) < edge for dot in root.iter(f"{SVG}circle"))


def test_kinds_and_layers_have_short_names() -> None:
    assert [kind(one) for one in small().couplings] == ["blocked", "alone", "program", "blocked"]
    assert kind(chain(3).couplings[0]) == "shared"
    forms = [
        InspectedLayer("a", "Conv2d", (3, 3), 8, 8, 8, 1, 1),
        InspectedLayer("a", "Conv2d", (1, 5), 8, 8, 2, 1, 1),
        InspectedLayer("a", "ConvTranspose2d", (2, 2), 8, 8, 1, 1, 1),
        InspectedLayer("a", "MultiheadAttention", (), 8, 24, 1, 1, 1),
    ]
    assert [what(layer) for layer in forms] == ["3×3 dw", "1×5 /2", "2×2 up", "MultiheadA…"]
