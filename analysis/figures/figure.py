"""What a figure of the paper is here: panels, the data that they show, or what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import polars as pl
from matplotlib.axes import Axes

from sparsing.analysis.figures.data import StudyData
from sparsing.study.errors import NotFoundError

Draw = Callable[[Axes], None]


class MissingFigure(NotFoundError):
    """A study does not hold what a figure shows; says what, and what to add to the definition."""


@dataclass(frozen=True)
class Made:
    """A figure or table of one study."""

    data: dict[str, pl.DataFrame]
    """What it shows, by a name that tells its parts apart; empty for the only one."""
    panels: Sequence[Draw] = ()
    """What draws each panel; none for a table."""
    notes: tuple[str, ...] = field(default=())
    """What a reader must know beside it."""


@dataclass(frozen=True)
class PaperFigure:
    """A figure or table of the paper."""

    key: str
    """As people ask for it: `4`, `table2`, `dead`."""
    title: str
    about: str
    """What it shows, in one sentence."""
    make: Callable[[StudyData], Made]
    """Raises MissingFigure where the study does not hold it."""

    @property
    def name(self) -> str:
        """`Figure 4`, `Table 2`; the title of what has no number in the paper."""
        if self.key.startswith("table"):
            return f"Table {self.key[5:]}"
        return f"Figure {self.key}" if self.key.isdigit() else self.title

    @property
    def file_name(self) -> str:
        """What its files' names begin with."""
        return f"figure-{int(self.key):02d}" if self.key.isdigit() else self.key
