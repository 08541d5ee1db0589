"""The report's figures one by one, for a notebook."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparsing.analysis.report import curves, detail
from sparsing.analysis.report.data import StudyData
from sparsing.analysis.report.style import PANEL_INCHES, STYLE
from sparsing.study.store.study_store import StudyStore


def figure_of(store: StudyStore, name: str) -> Figure:
    """A figure of a study: `activation_ratio`, `training_loss`, `validation_loss`, `layers`, ...

    Raises KeyError for another name.
    """
    data = StudyData.read(store)
    if name == "activation_ratio":
        return curves.main_figure_of(data)
    return _side_by_side(PANELS[name](data))


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
