"""How the report's figures look: colours, fonts, axes, and SVG that follows the page's theme.

Figures are drawn in the colours of the light theme. In the page, each colour becomes a CSS
variable (`var(--c-0072b2)`), whose value in the dark theme has the lightness turned round: one
figure, two themes, no script. Text stays text, in the page's font.
"""

from __future__ import annotations

import colorsys
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from sparsing.registry import ACTIVATIONS
from sparsing.study.units import count_text

INK, QUIET, FAINT, PAPER = "#1c2024", "#5b636b", "#d8dbdf", "#ffffff"
RAMPS = {name: entry.colours for name, entry in ACTIVATIONS.items()}
"""Light, plain and deep: Okabe and Ito's hues, which stay apart for colour-blind readers."""
CATEGORIES = ("#0072b2", "#d55e00", "#009e73", "#a3568b", "#a17a00", "#4b5563")
DARKEST = 0.09
"""Lightness of the dark theme's background."""

PANEL_INCHES = (4.7, 3.5)
LEGEND_ROW_INCHES = 0.19
MOST_COLUMNS = 6
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.4,
}

Draw = Callable[[Axes], None]


def shades(activation: str, count: int) -> list[str]:
    """`count` colours of an activation's hue, from light to deep; the plain one for one."""
    ramp = np.array([to_rgb(colour) for colour in RAMPS[activation]])
    places = [1.0] if count == 1 else np.linspace(0, 2, count)
    channels = [np.interp(places, range(3), channel) for channel in ramp.T]
    return [to_hex((r, g, b)) for r, g, b in zip(*channels, strict=True)]


def dark(colour: str) -> str:
    """A colour in the dark theme: lightness turned round, from the paper's to the ink's."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(colour))
    return to_hex(colorsys.hls_to_rgb(hue, DARKEST + (1 - DARKEST) * (1 - lightness), saturation))


def token_axis(axes: Axes, *, log: bool) -> None:
    """Training tokens along x, as people write counts."""
    if log:
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        subs = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=subs))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count_text(value)))
    axes.set_xlabel("training tokens")


def percent_axis(axes: Axes, label: str) -> None:
    """Ratios along y, as percentages."""
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
    axes.set_ylabel(label)


def legend_below(axes: Axes, handles: Sequence[Artist] = ()) -> None:
    """Below the axes: these handles, and what else on the axes has a label, each label once.

    The figure grows with the rows of its legend, so that the axes keep their height.
    """
    found, labels = axes.get_legend_handles_labels()
    named = {str(handle.get_label()): handle for handle in handles}
    named |= dict(zip(labels, found, strict=True))
    figure = axes.get_figure()
    if not named or not isinstance(figure, Figure):
        return
    columns = _columns(list(named), 72 * figure.get_figwidth())
    rows = -(-len(named) // columns)
    figure.set_figheight(figure.get_figheight() + (rows - 1) * LEGEND_ROW_INCHES)
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=columns)


def _columns(labels: list[str], points: float) -> int:
    """The most columns of a legend that fit into a width, by the longest label of each."""
    for columns in range(min(len(labels), MOST_COLUMNS), 1, -1):
        parts = np.array_split([len(label) for label in labels], columns)
        if sum(36 + 5.9 * part.max() for part in parts) <= points:  # mark and spaces, then text
            return columns
    return 1


def panel(draw: Draw, about: str) -> Markup:
    """A panel as inline SVG: `draw` draws on its axes, `about` is its text for screen readers."""
    with rc_context(STYLE | {"svg.hashsalt": about}):
        figure = Figure(figsize=PANEL_INCHES, layout="constrained")
        draw(figure.add_subplot())
        file = io.StringIO()
        nothing: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    # matplotlib escapes what it draws.
    return Markup(_inline(file.getvalue(), about))


def _inline(svg: str, about: str) -> str:
    """The element alone, as wide as its place, without ids and addresses, in the page's font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style).*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<g) id="[^"]*"', r"\1", svg)
    head, body = svg.split(">", 1)
    head = re.sub(r'\s(xmlns(:xlink)?|version|width|height)="[^"]*"', "", head)
    body = body.replace("xlink:href", "href")
    body = re.sub(r"font-family: [^;\"]*", "font-family: inherit", body)
    body = re.sub(r"#([0-9a-f]{6})\b", r"var(--c-\1)", body)
    body = re.sub(r' (?:d|x|y)="[^"]*"', _tenths, body)
    body = re.sub(r"\s*\n\s*", " ", body)
    return f'{head} role="img" aria-label="{escape(about)}">{body}'


def _tenths(coordinates: re.Match[str]) -> str:
    """Coordinates to a tenth of a point."""
    return re.sub(r"(\d\.\d)\d+", r"\1", coordinates[0])


class StyleSheet:
    """The styles of all figures of a page, each written once, and the colours in them."""

    def __init__(self) -> None:
        self._classes: dict[str, str] = {}

    def adopt(self, figure: Markup) -> Markup:
        """The figure with classes of this sheet in place of its styles."""
        return Markup(re.sub(r'style="([^"]*)"', self._class, figure))

    def _class(self, style: re.Match[str]) -> str:
        name = self._classes.setdefault(style[1], f"s{len(self._classes)}")
        return f'class="{name}"'

    @property
    def rules(self) -> Markup:
        """CSS: a rule for each class."""
        return Markup("\n".join(f".{name} {{ {style} }}" for style, name in self._classes.items()))

    @property
    def colours(self) -> list[tuple[str, str, str]]:
        """Name, light and dark value of the CSS variable of each colour."""
        found = set(re.findall(r"--c-([0-9a-f]{6})", self.rules))
        return [(f"c-{each}", f"#{each}", dark(f"#{each}")) for each in sorted(found)]
