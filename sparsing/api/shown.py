"""Results that show themselves: a table where they are printed, HTML in a notebook, pictures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from sparsing.study.display.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Shown:
    """Base of results; `table` says how they look."""

    def table(self) -> Table:
        """The result as a table."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.table().text()

    def _repr_html_(self) -> str:
        return self.table().html()


class Picture:
    """A figure that a notebook shows; `figure` is matplotlib's, to change it."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure

    def save(self, path: str | Path, dpi: int = 150) -> Path:
        """Write it to a file, whose ending says the format: .png, .svg, .pdf."""
        self.figure.savefig(path, dpi=dpi)
        return Path(path)

    def _repr_png_(self) -> bytes:
        content = io.BytesIO()
        self.figure.savefig(content, format="png", dpi=110)
        return content.getvalue()

    def __repr__(self) -> str:
        width, height = self.figure.get_size_inches()
        return f"picture of {width:g} x {height:g} inches; save(path) writes it"
