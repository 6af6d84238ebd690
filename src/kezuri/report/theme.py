"""How charts look: few colours that people with any colour vision can tell apart, and readable text."""

from typing import Any

# Okabe and Ito (2008), "Color Universal Design": distinct under every common colour-vision deficiency.
BLUE = "#0072b2"
SKY = "#56b4e9"
VERMILLION = "#d55e00"
GREEN = "#009e73"
ORANGE = "#e69f00"
# Light enough to stay behind the data.
INK = "#1f2933"
MUTED = "#616e7c"
GRID = "#e4e7eb"
PALE = "#c3dcec"
GREY = "#9aa5b1"

FONT = "Helvetica Neue, Helvetica, Arial, sans-serif"
WIDTH = 680

CONFIG: dict[str, Any] = {
    "font": FONT,
    "background": "white",
    "padding": 12,
    "view": {"stroke": None},
    "title": {
        "anchor": "start",
        "frame": "group",
        "fontSize": 17,
        "fontWeight": 600,
        "color": INK,
        "subtitleFontSize": 12.5,
        "subtitleColor": MUTED,
        "subtitlePadding": 5,
        "offset": 14,
    },
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 12.5,
        "titleFontWeight": 500,
        "labelColor": MUTED,
        "titleColor": INK,
        "gridColor": GRID,
        "domainColor": GREY,
        "tickColor": GREY,
        "titlePadding": 10,
        "labelFlush": False,
        "labelPadding": 5,
    },
    "legend": {
        "orient": "top",
        "direction": "horizontal",
        "title": None,
        "labelFontSize": 12,
        "labelColor": INK,
        "symbolSize": 90,
        "symbolOpacity": 1,
        "offset": 6,
    },
}
