"""The chart of an allocation, layer by layer: how many bits each got, and how many of its weights went."""

from collections.abc import Mapping
from typing import Any

import altair as alt

from kezuri.report import numbers
from kezuri.report.plots import SHORT_LABEL, Chart, over, titled
from kezuri.report.theme import BLUE, MUTED, SKY, WIDTH

WORDS = "Bits of every layer's weights, in the order of the network"


def bits_chart(content: Mapping[str, Any]) -> Chart | None:
    """A bar a layer, from the first to the last; None where nothing was chosen.

    Args:
        content: what `kezuri.quantization.bits.front_to_json` gives.
    """
    options: Mapping[str, Any] = (content.get("chosen") or {}).get("options") or {}
    if not options:
        return None
    rows = [
        {
            "layer": layer,
            "bits": option["bits"],
            "state": "with zeros" if option["sparsity"] else "all weights",
            "words": _words(option),
        }
        for layer, option in options.items()
    ]
    tight = len(rows) > 30
    labels = alt.Axis(
        labelExpr=SHORT_LABEL, labelLimit=210, labelFontSize=10.5 if tight else 12, ticks=False, domain=False
    )
    bands = alt.Scale(paddingInner=0.25)
    y = alt.Y("layer:N", sort=[str(row["layer"]) for row in rows], title=None, axis=labels, scale=bands)
    most = max(option["bits"] for option in options.values())
    x = alt.X(
        "bits:Q", title="bits", scale=alt.Scale(domain=[0, most]), axis=alt.Axis(tickMinStep=1, format="d")
    )
    states = [name for name in ("all weights", "with zeros") if any(row["state"] == name for row in rows)]
    looks = {"all weights": BLUE, "with zeros": SKY}
    legend = alt.Legend() if len(states) > 1 else None
    colour = alt.Color(
        "state:N", scale=alt.Scale(domain=states, range=[looks[name] for name in states]), legend=legend
    )
    chart = over(rows)
    layers = [
        chart.mark_bar().encode(
            x=x, y=y, color=colour, tooltip=[alt.Tooltip("layer:N"), alt.Tooltip("words:N")]
        ),
        chart.mark_text(align="left", dx=5, fontSize=10.5 if tight else 11.5, color=MUTED).encode(
            x=x, y=y, text="words:N"
        ),
    ]
    sized = alt.layer(*layers).properties(width=WIDTH - 120, height=alt.Step(15 if tight else 20))
    return titled(sized, _finding(options), WORDS)


def _words(option: Mapping[str, Any]) -> str:
    zeros = f", {numbers.percent(option['sparsity'], 0)} zeros" if option["sparsity"] else ""
    return f"{option['bits']}{zeros}"


def _finding(options: Mapping[str, Any]) -> str:
    """How many layers got how many bits."""
    held = sorted((option["bits"] for option in options.values()), reverse=True)
    parts = [f"{held.count(bits)} of {bits} bits" for bits in dict.fromkeys(held)]
    return f"{len(held)} layers: {', '.join(parts)}"
