"""The trade-off of one run: accuracy against size, one point a round, and which rounds nothing else beats."""

import altair as alt

from kezuri.report import numbers
from kezuri.report.compare import front
from kezuri.report.plots import Chart, over, titled
from kezuri.report.reading import RunView
from kezuri.report.theme import BLUE, GREY, MUTED, SKY, VERMILLION, WIDTH

COLOURS = {"on the front": BLUE, "beaten": GREY, "rolled back": VERMILLION}
WORDS = "Validation accuracy against the size of the weights, one point an attempt at a round"


def tradeoff_chart(run: RunView) -> Chart | None:
    """Every attempt at a round by size and accuracy, with the Pareto front of those that stand."""
    known = [entry for entry in run.rounds if entry.size is not None and entry.validation is not None]
    if len(known) < 2:
        return None
    unit, scale = numbers.size_unit([entry.size for entry in known])
    points = [(e.validation.value, float(e.size or 0)) for e in known if e.validation is not None]
    standing = [i for i, entry in enumerate(known) if entry.stands]
    best = {standing[i] for i in front([points[i] for i in standing])}
    rows = [
        {
            "size": size / scale,
            "accuracy": accuracy * 100,
            "round": f"{entry.round} ({entry.attempt + 1})" if entry.attempt else str(entry.round),
            "state": "on the front" if i in best else "beaten" if entry.stands else "rolled back",
        }
        for i, (entry, (accuracy, size)) in enumerate(zip(known, points, strict=True))
    ]
    shown = [state for state in COLOURS if any(row["state"] == state for row in rows)]
    colour = alt.Color(
        "state:N", scale=alt.Scale(domain=shown, range=[COLOURS[state] for state in shown]), title=None
    )
    widest = max(row["size"] for row in rows if isinstance(row["size"], float))
    x = alt.X(
        "size:Q",
        title=f"size ({unit})",
        scale=alt.Scale(domain=[0, widest * 1.08], nice=False),
        axis=alt.Axis(tickCount=7),
    )
    y = alt.Y("accuracy:Q", title="validation accuracy (%)", scale=alt.Scale(zero=False, padding=18))
    chart = over(rows)
    tip = [
        alt.Tooltip("round:N"),
        alt.Tooltip("size:Q", format=",.3~r"),
        alt.Tooltip("accuracy:Q", format=".2f"),
    ]
    line = chart.transform_filter("datum.state == 'on the front'")
    layers = [
        line.mark_line(color=SKY, strokeWidth=1.5, interpolate="step-after").encode(x=x, y=y),
        chart.mark_point(filled=True, size=80, opacity=1).encode(x=x, y=y, color=colour, tooltip=tip),
        chart.mark_text(align="left", dx=6, dy=-9, fontSize=11.5, color=MUTED).encode(
            x=x, y=y, text="round:N"
        ),
    ]
    panel = alt.layer(*layers).properties(width=WIDTH, height=300)
    kept = sum(entry.stands for entry in known)
    again = next((entry.round for entry in known if entry.attempt), None)
    words = WORDS if again is None else f"{WORDS}; {again} (2): the second at round {again}"
    return titled(panel, f"{len(best)} of {kept} rounds are on the front", words)
