"""What the library answers with: rows, fits, predictions, advice, plans, measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from sparsing.api.shown import Picture, Shown
from sparsing.study.display.rows import rows_table
from sparsing.study.display.status import status_table, studies_table
from sparsing.study.display.table import Column, Table, table
from sparsing.study.plan.runs import Plan
from sparsing.study.status.study_status import StudyStatus
from sparsing.study.store.study_store import StudyStore

if TYPE_CHECKING:
    from sparsing.actors.measuring.pareto import ParetoPoint
    from sparsing.actors.measuring.requests.measure_folders import MeasuredFolders
    from sparsing.analysis.forecasting.advice import Advice

SHOWN_ROWS = 60


class Rows(Shown):
    """Rows of a table; `frame` is the polars DataFrame, `rows[name]` a column of it."""

    def __init__(self, frame: pl.DataFrame, title: str | None = None) -> None:
        self.frame = frame
        self._title = title

    def table(self) -> Table:
        """The first rows."""
        shown = rows_table(self.frame, SHOWN_ROWS)
        shown.title = self._title
        if self.frame.height > SHOWN_ROWS:
            shown.notes.append(f"{self.frame.height - SHOWN_ROWS} more rows")
        return shown

    def __getitem__(self, name: str) -> pl.Series:
        return self.frame[name]

    def __len__(self) -> int:
        return self.frame.height


class Studies(Shown):
    """The studies of a store; `rows` are plain values."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def table(self) -> Table:
        """A row for each study."""
        return studies_table(self.rows)


class Status(Shown):
    """How the runs of a study stand; `runs` has a `RunStatus` for each."""

    def __init__(self, status: StudyStatus) -> None:
        self.runs, self.states = status.runs, status.states
        self._status = status

    def as_dict(self) -> dict[str, Any]:
        """The document of `sparsing status --json`."""
        return self._status.as_json()

    def table(self) -> Table:
        """A row for each run."""
        return status_table(self._status)


class Planned(Shown):
    """The runs of a definition and what they cost; `total` has the sums."""

    def __init__(self, plan: Plan) -> None:
        self.costs, self.total, self.study_id = plan.costs, plan.total, plan.study_id
        self._plan = plan

    def as_dict(self) -> dict[str, Any]:
        """The document of `sparsing plan --json`."""
        return self._plan.as_json()

    def table(self) -> Table:
        """A row for each run; the note is the sum."""
        from sparsing.study.display.plan import plan_table

        return plan_table(self._plan)


class Fits(Shown):
    """The newest fits of a study; `rows` are those of `sparsing laws --json`."""

    def __init__(self, document: dict[str, Any], store: StudyStore) -> None:
        self.rows: list[dict[str, Any]] = document["fits"]
        self._document, self._store = document, store

    def as_dict(self) -> dict[str, Any]:
        """The document of `sparsing laws --json`."""
        return self._document

    def table(self) -> Table:
        """A row for each parameter of each fit."""
        from sparsing.analysis.fitting.fit_table import laws_table

        return laws_table(self.rows)

    def plot(self) -> Picture:
        """The measured curves with their laws and bands."""
        from sparsing.analysis.report.figures import figure_of

        return Picture(figure_of(self._store, "activation_ratio"))

    def __len__(self) -> int:
        return len(self.rows)


class Predictions(Shown):
    """What the laws of a run predict; `rows` are those of `sparsing predict --json`."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.rows: list[dict[str, Any]] = document["predictions"]
        self._document = document

    def as_dict(self) -> dict[str, Any]:
        """The document of `sparsing predict --json`."""
        return self._document

    def table(self) -> Table:
        """A sentence for each law."""
        from sparsing.analysis.forecasting.predictions import sentence

        shown = Table([Column("law"), Column("prediction", prose=True)])
        for row in self.rows:
            shown.add(str(row.get("law") or ""), sentence(row))
        return shown


class Advised(Shown):
    """The advice on a study; `advice` has it in fields."""

    def __init__(self, advice: Advice) -> None:
        self.advice = advice

    def as_dict(self) -> dict[str, Any]:
        """The document of `sparsing advise --json`."""
        return self.advice.as_dict()

    def table(self) -> Table:
        """A row for each run: verdict and reason."""
        wish = self.advice.wish
        title = f"{self.advice.study}: wished is the {wish.name} within {wish.precision_text}"
        shown = Table([Column("run"), Column("verdict"), Column("reason", prose=True)], title=title)
        for each in self.advice.runs:
            shown.add(each.run, each.verdict, each.reason)
        for planned in self.advice.planned:
            shown.add(planned.run, planned.verdict, planned.reason)
        return shown

    def __str__(self) -> str:
        from sparsing.analysis.forecasting.advice_text import advice_text

        return advice_text(self.advice)


class Measurements(Shown):
    """The measurement of one model or several; `rows` are those of the table `sparsity`."""

    def __init__(self, done: MeasuredFolders) -> None:
        from sparsing.actors.measuring.requests.documents import measured_document

        self._done = done
        self._document = measured_document(done.models, done.metric, done.measured)
        self.rows = [
            {"path": model["path"]} | row
            for model in self._document["models"]
            for row in model["sparsity"]
        ]

    @property
    def activation_ratio(self) -> float:
        """Of the first model: mean over layers, mixture of all domains."""
        return self._done.measured.measurements[0].mixture.activation_ratio

    @property
    def cett(self) -> float | None:
        """The CETT value applied; None for a metric without one."""
        return self._done.measured.measurements[0].cett

    @property
    def frame(self) -> pl.DataFrame:
        """The rows as a polars DataFrame."""
        return pl.DataFrame(self.rows, infer_schema_length=None)

    def as_dict(self) -> dict[str, Any]:
        """The document of `sparsing measure --json`."""
        return self._document

    def save_thresholds(self, file: str) -> None:
        """Write what a sparse kernel needs of the first model, a .safetensors file."""
        from pathlib import Path

        from sparsing.actors.measuring.requests.measure_folders import write_thresholds

        write_thresholds(Path(file), self._done.models[0], self._done.measured.measurements[0])

    def table(self) -> Table:
        """A row for each model and layer; the first of each model is the mean over layers."""
        from sparsing.actors.measuring.requests.tables import interval, percent, tokens_line

        numbers = ("layer", "activation ratio", "95 % interval")
        shown = table(("model", *numbers), right=numbers)
        models = zip(self._done.models, self._done.measured.measurements, strict=True)
        for model, one in models:
            part = one.mixture
            ratio, bounds = percent(part.activation_ratio), interval(part.interval)
            shown.add(model.path.name, "mean", ratio, bounds)
            layers = zip(part.activation_ratios, part.layer_intervals, strict=True)
            for layer, (value, ends) in enumerate(layers):
                shown.add("", str(layer), percent(value), interval(ends))
        shown.notes.append(tokens_line(self._done.measured))
        return shown

    def plot(self) -> Picture:
        """Activation ratio of each layer, with its interval, a line for each model."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        models = zip(self._done.models, self._done.measured.measurements, strict=True)
        for model, one in models:
            ratios = one.mixture.activation_ratios
            pairs = zip(one.mixture.layer_intervals, ratios, strict=True)
            ends = [(value - low, high - value) for (low, high), value in pairs]
            below, above = ([max(0.0, each[side]) for each in ends] for side in (0, 1))
            axes.errorbar(
                range(len(ratios)), ratios, [below, above], marker="o", label=model.path.name
            )
        axes.set(xlabel="layer", ylabel="activation ratio", ylim=(0, None))
        axes.legend()
        return Picture(figure)


class ParetoCurves(Shown):
    """Perplexity against activation ratio, for each way of choosing weak neurons."""

    def __init__(self, names: list[str], curves: list[list[ParetoPoint]]) -> None:
        from sparsing.actors.measuring.pareto import pareto_rows

        self.rows = [
            {"model": name} | row
            for name, points in zip(names, curves, strict=True)
            for row in pareto_rows(points)
        ]

    @property
    def frame(self) -> pl.DataFrame:
        """The rows as a polars DataFrame."""
        return pl.DataFrame(self.rows, infer_schema_length=None)

    def table(self) -> Table:
        """A row for each model, way and parameter."""
        return rows_table(self.frame)

    def plot(self) -> Picture:
        """Rise of perplexity against activation ratio, a line for each way."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        mixture = self.frame.filter(pl.col("domain").is_null())
        for (model, metric), rows in mixture.group_by(["model", "metric"], maintain_order=True):
            points = rows.sort("activation_ratio")
            ratios, rises = points["activation_ratio"], points["ppl_rise_percent"]
            axes.plot(ratios, rises, marker="o", ms=3, label=f"{model} {metric}")
        axes.set(xlabel="activation ratio", ylabel="rise of perplexity, %")
        axes.set_yscale("symlog", linthresh=1)
        axes.legend()
        return Picture(figure)
