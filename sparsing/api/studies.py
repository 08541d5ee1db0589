"""Studies of a store: `sparsing.open` and what can be asked of one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import polars as pl

from sparsing.api.results import Advised, Fits, Predictions, Rows, Status, Studies
from sparsing.api.shown import Picture
from sparsing.study.definition.model import Study
from sparsing.study.errors import DefinitionError
from sparsing.study.status.study_status import StatusReader, StudyStatus
from sparsing.study.store.study_store import StudyStore, list_studies

DEFAULT_STORE = "./sparsing-store"
FIGURES = ("activation_ratio", "training_loss", "validation_loss", "layers", "domains")


def store_root(store: str | Path | None) -> str:
    """The store's root: as given, or SPARSING_STORE, or ./sparsing-store."""
    return str(store or os.environ.get("SPARSING_STORE") or DEFAULT_STORE)


def open(study: str | Path, store: str | Path | None = None) -> OpenStudy:
    """A study of a store.

    Args:
        study: its id, a unique prefix or name, or the path of its folder.
        store: root of the store, also `s3://bucket/prefix`; by default SPARSING_STORE, else
            ./sparsing-store.

    Raises:
        NotFoundError: no study fits.
        DefinitionError: several do.
    """
    return OpenStudy(StudyStore.open(store_root(store), str(study)))


def studies(store: str | Path | None = None) -> Studies:
    """All studies of a store, a row each."""
    root = store_root(store)
    found = [StudyStatus.read(StudyStore.open(root, each)).summary() for each in list_studies(root)]
    return Studies(found)


class OpenStudy:
    """A study of a store, as it is whenever it is asked; nothing here changes it but `refit`."""

    def __init__(self, store: StudyStore) -> None:
        self.store = store

    @property
    def id(self) -> str:
        """The study's id: its name and a hash of its definition."""
        return self.store.study_id

    @property
    def definition(self) -> Study:
        """Its definition."""
        return self.store.study

    @property
    def status(self) -> Status:
        """How its runs stand."""
        return Status(StatusReader(self.store).read())

    @property
    def runs(self) -> Rows:
        """One row per run: its configuration as columns, its state and newest values.

        `.frame` is the polars DataFrame; the table `configurations` of `query` is the same.
        """
        from sparsing.study.query.configurations import configurations

        return Rows(configurations(self.store), title=f"runs of {self.id}")

    @property
    def fits(self) -> Fits:
        """The newest law of each run, with 95 % intervals."""
        from sparsing.analysis.refitting.newest import laws_document

        return Fits(laws_document(self.store), self.store)

    def table(self, name: str, run: str | None = None) -> pl.LazyFrame:
        """A table of the store, every commit that was acknowledged; of one run, or of all.

        Raises:
            DefinitionError: there is no such table.
        """
        if name == "configurations":
            from sparsing.study.query.configurations import lazy_configurations

            frame = lazy_configurations(self.store)
            return frame if run is None else frame.filter(pl.col("run") == run)
        return self.store.scan(name, run)

    def query(self, sql: str) -> pl.DataFrame:
        """The rows of an SQL query over all tables.

        Raises:
            DefinitionError: it is no SQL, or names what is not there.
        """
        from sparsing.study.query.sql import ask

        return ask(self.store, sql).collect()

    def predict(
        self, run: str, *, tokens: str | float | None = None, ratio: float | None = None
    ) -> Predictions:
        """What the newest laws of a run say: the ratio at `tokens`, or the tokens to a `ratio`.

        Raises:
            NotFoundError: there is no such run, or no fit of it.
            DefinitionError: both or neither are given, or a number cannot be.
        """
        from sparsing.analysis.forecasting.predictions import predictions_document

        if (tokens is None) == (ratio is None):
            raise DefinitionError("give either tokens or ratio", code="either_or")
        return Predictions(predictions_document(self.store, run, tokens, ratio))

    def advise(self, **wish: Any) -> Advised:
        """Which runs can stop, which must go on, what to run next, and why.

        Args:
            wish: `precision` (wished half width of the 95 % interval, relative to the value, 0.1
                by default), `absolute`, `tokens`, `ratio`, `scale`; as for `sparsing advise`.
        """
        from sparsing.analysis.forecasting.advice import advise

        return Advised(advise(self.store, **wish))

    def refit(self) -> int:
        """Fit what has new measurements, append it to the table `fits`; returns how many fits."""
        from sparsing.analysis.refitting.refit import refit
        from sparsing.study.version import code_version

        return refit(self.store, code_version=code_version())

    def figure(self, name: str | int = "activation_ratio") -> Picture:
        """A figure of the report, one of FIGURES, or of the paper by its number (docs/figures.md).

        Raises:
            DefinitionError: there is no such figure.
            NotFoundError: the study does not hold what it shows; says what to add.
        """
        from sparsing.analysis.figures.catalogue import CATALOGUE

        name = str(name)
        if name not in FIGURES and name not in CATALOGUE:
            raise DefinitionError(
                f"no figure {name!r}; there are {', '.join((*FIGURES, *CATALOGUE))}",
                code="unknown_figure",
                name=name,
                known=FIGURES,
            )
        from sparsing.analysis.report.figures import figure_of

        return Picture(figure_of(self.store, name))

    def report(self) -> Path | Any:
        """Write the report, one HTML file, into the study's folder; returns its path."""
        from sparsing.analysis.report.report import write_report

        return write_report(self.store)

    def history(self, run: str | None = None) -> list[str]:
        """What happened to the study, or to one run: a line for each event."""
        from sparsing.study.status.history import history

        return history(self.store, run)

    def __repr__(self) -> str:
        return self.status.__repr__()

    def _repr_html_(self) -> str:
        return self.status._repr_html_()
