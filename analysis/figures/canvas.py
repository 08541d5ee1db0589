"""Panels become a figure for a talk or a paper's column, with one legend for all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.collections import Collection
from matplotlib.colors import to_hex, to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.spines import Spine
from matplotlib.text import Text

from sparsing.analysis.figures.figure import Draw
from sparsing.analysis.figures.style import PAPER, STYLE, dark

SIZES = {"talk": (12.8, 7.2), "column": (3.4, 2.5)}
"""Inches: a page at 16:9; the width of a paper's column, and the height of one panel in it."""
CHARACTER_SHARE, HANDLE_POINTS = 0.6, 52.0
"""Width of a character in a legend by the size of its font, and of a mark with its spaces."""
ROW_INCHES = 0.22


def drawn(panels: Sequence[Draw], size: str = "talk") -> Figure:
    """A figure of these panels: a grid for a talk, one below the other in a column."""
    width, height = SIZES[size]
    columns = 1 if size == "column" else _columns(len(panels))
    rows = -(-len(panels) // columns)
    if size == "column":
        height *= rows
    fonts = _fonts(size, rows)
    with rc_context(STYLE | fonts):
        figure = Figure(figsize=(width, height), layout="constrained")
        named: dict[str, Any] = {}
        for place, draw in enumerate(panels, 1):
            draw(figure.add_subplot(rows, columns, place))
            named |= _taken_legends(figure)
        _add_legend(figure, named, (width, height), fonts["legend.fontsize"])
    return figure


def _columns(count: int) -> int:
    return 1 if count == 1 else math.ceil(math.sqrt(count))


def _fonts(size: str, rows: int) -> dict[Any, Any]:
    scale = 0.72 if size == "column" else 1.25 if rows == 1 else 1.0 if rows == 2 else 0.8
    names = ("font.size", "axes.titlesize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize")
    return {name: scale * STYLE[name] for name in names}


def _taken_legends(figure: Figure) -> dict[str, Any]:
    """What a panel put into legends of its own, which are removed."""
    named: dict[str, Any] = {}
    for legend in list(figure.legends):
        handles = legend.legend_handles
        named |= dict(zip((text.get_text() for text in legend.get_texts()), handles, strict=True))
        legend.remove()
    return named


def _add_legend(
    figure: Figure, named: dict[str, Any], inches: tuple[float, float], font_points: float
) -> None:
    width, height = inches
    figure.set_size_inches(width, height)
    if not named:
        return
    each = HANDLE_POINTS + CHARACTER_SHARE * font_points * max(map(len, named))
    columns = min(len(named), max(1, int(72 * width / each)))
    if width == SIZES["column"][0]:  # a column grows with its legend, a page does not
        figure.set_figheight(height + ROW_INCHES * -(-len(named) // columns))
    handles = list(named.values())
    figure.legend(handles, list(named), loc="outside lower center", ncols=columns)


def save(figure: Figure, file: Path, *, theme: str = "light") -> None:
    """Write a figure as its file's name says: svg, pdf or png."""
    if theme == "dark":
        _darken(figure)
    paper = PAPER if theme == "light" else dark(PAPER)
    fixed: dict[str, Any] = {"png": {"Software": None}, "pdf": {"CreationDate": None}}
    metadata = fixed.get(file.suffix[1:], {"Date": None})
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": file.stem, "pdf.fonttype": 42}):
        figure.savefig(file, dpi=160, facecolor=paper, metadata=metadata)


def _darken(figure: Figure) -> None:
    """Turn the lightness of everything that is drawn round, as the report does in the dark."""
    for axes in figure.axes:
        axes.patch.set_visible(False)
    for artist in figure.findobj():
        if isinstance(artist, Text):
            artist.set_color(_turned(artist.get_color()))
        elif isinstance(artist, Line2D):
            ends = artist.get_markerfacecolor(), artist.get_markeredgecolor()
            artist.set_color(_turned(artist.get_color()))
            artist.set_markerfacecolor(_turned(ends[0]))
            artist.set_markeredgecolor(_turned(ends[1]))
        elif isinstance(artist, Collection):
            artist.set_facecolor([_turned(each) for each in artist.get_facecolor()])
            artist.set_edgecolor([_turned(each) for each in artist.get_edgecolor()])
        elif isinstance(artist, Spine | Patch) and artist is not figure.patch:
            face, edge = artist.get_facecolor(), artist.get_edgecolor()
            artist.set_facecolor(_turned(face))
            artist.set_edgecolor(_turned(edge))


def _turned(colour: Any) -> Any:
    """A colour in the dark theme, with its opacity; `none` stays."""
    if isinstance(colour, str) and colour in ("none", "auto"):
        return colour
    red, green, blue, opacity = to_rgba(colour)
    return (*to_rgb(dark(to_hex((red, green, blue)))), opacity)
