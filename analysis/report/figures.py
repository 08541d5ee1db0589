"""The report's figures one by one, for a notebook."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparsing.analysis.figures import curves, detail
from sparsing.analysis.figures.canvas import drawn
from sparsing.analysis.figures.catalogue import chosen
from sparsing.analysis.figures.data import StudyData
from sparsing.analysis.figures.style import PANEL_INCHES, STYLE
from sparsing.study.errors import NotFoundError
from sparsing.study.store.study_store import StudyStore


def figure_of(store: StudyStore, name: str) -> Figure:
    """A figure of a study: one of PANELS, `activation_ratio`, or a figure of the paper by its key.

    Raises NotFoundError for another name, and MissingFigure, which is one, where the study does not
    hold what the figure shows.
    """
    data = StudyData.read(store)
    if name == "activation_ratio":
        return curves.main_figure_of(data)
    if name in PANELS:
        return _side_by_side(PANELS[name](data))
    (figure,) = chosen([name])
    made = figure.make(data)
    if not made.panels:
        raise NotFoundError(f"{figure.name} is a table: `sparsing figures --only {name}` writes it")
    return drawn(made.panels)


def _side_by_side(draws: list[Callable[[Axes], None]]) -> Figure:
    width, height = PANEL_INCHES
    with rc_context(STYLE):
        figure = Figure(figsize=(width * max(1, len(draws)), height), layout="constrained")
        if not draws:
            figure.text(0.5, 0.5, "Nothing has been measured yet.", ha="center")
            return figure
        for axes, draw in zip(figure.subplots(1, len(draws), squeeze=False)[0], draws, strict=True):
            draw(axes)
    return figure


def _by_series(draw: Callable[..., None], data: StudyData) -> list[Callable[[Axes], None]]:
    return [partial(draw, data=data, runs=runs) for runs in data.series().values()]


PANELS: dict[str, Callable[[StudyData], list[Callable[[Axes], None]]]] = {
    "training_loss": lambda data: [partial(curves.draw_training_loss, data=data)],
    "validation_loss": lambda data: [partial(curves.draw_validation_loss, data=data)],
    "layers": partial(_by_series, detail.draw_layers),
    "domains": partial(_by_series, detail.draw_domains),
}
