"""How the report's figures look: colours, fonts, axes, and SVG that follows the page's theme.

Figures are drawn in the colours of the light theme. In the page, each colour becomes a CSS
variable (`var(--c-0072b2)`), whose value in the dark theme has the lightness turned round: one
figure, two themes, no script. Text stays text, in the page's font.
"""

from __future__ import annotations

import colorsys
import io
import re
from collections.abc import Callable, Iterable

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from study.units import count_text

INK, FAINT, PAPER = "#1c2024", "#d8dbdf", "#ffffff"
HUES = {"relu": "#0072b2", "silu": "#d55e00", "relu2": "#009e73", "gelu": "#a3568b"}
"""Okabe and Ito's colours, which stay apart for colour-blind readers."""
DARKEST = 0.09
"""Lightness of the dark theme's background."""

PANEL_INCHES = (5.2, 3.7)
STYLE = {
    "svg.fonttype": "none",
    "font.size": 10.5,
    "axes.titlesize": 12,
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
}

Draw = Callable[[Axes], None]


def shades(activation: str, count: int) -> list[str]:
    """`count` colours of an activation's hue, from light to dark; the hue itself for one."""
    if count == 1:
        return [HUES[activation]]
    hue, _, saturation = colorsys.rgb_to_hls(*to_rgb(HUES[activation]))
    places = np.linspace(-1, 1, count)
    return [_hex(hue + 0.09 * at, 0.42 - 0.2 * at, saturation * (0.9 - 0.1 * at)) for at in places]


def _hex(hue: float, lightness: float, saturation: float) -> str:
    return to_hex(colorsys.hls_to_rgb(hue % 1, lightness, min(saturation, 1)))


def dark(colour: str) -> str:
    """A colour in the dark theme: lightness turned round, from the paper's to the ink's."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*to_rgb(colour))
    return _hex(hue, DARKEST + (1 - DARKEST) * (1 - lightness), saturation)


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


def legend_below(axes: Axes, columns: int = 3) -> None:
    """What has a label, once, below the axes."""
    handles, labels = axes.get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    if named:
        figure = axes.get_figure()
        assert isinstance(figure, Figure)
        ncols = min(columns, len(named))
        figure.legend(named.values(), named, loc="outside lower center", ncols=ncols)


def panel(draw: Draw, about: str) -> Markup:
    """A panel as inline SVG: `draw` draws on its axes, `about` is its text for screen readers."""
    with rc_context(STYLE | {"svg.hashsalt": about}):
        figure = Figure(figsize=PANEL_INCHES, layout="constrained")
        draw(figure.add_subplot())
        file = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return Markup(_inline(file.getvalue(), about))


def _inline(svg: str, about: str) -> str:
    """The element alone, as wide as its place, without ids and addresses, in the page's font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<g) id="[^"]*"', r"\1", svg)
    svg = re.sub(r'\s(xmlns(:xlink)?|version)="[^"]*"', "", svg)
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*pt"', r"\1", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*pt"', r"\1", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    svg = re.sub(r"#([0-9a-f]{6})\b", r"var(--c-\1)", svg)
    label = Markup.escape(about)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def theme(figures: Iterable[str]) -> list[tuple[str, str, str]]:
    """Name, light and dark value of the CSS variable of each colour in the figures."""
    found = {match for svg in figures for match in re.findall(r"--c-([0-9a-f]{6})", svg)}
    return [(f"c-{each}", f"#{each}", dark(f"#{each}")) for each in sorted(found)]
