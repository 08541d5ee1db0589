"""Rows of `configurations` as a user wishes them: some columns, some runs, in an order."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import polars as pl

from sparsing.study.errors import DefinitionError
from sparsing.study.query.configurations import COLUMNS, CONFIGURATION, configurations
from sparsing.study.query.sql import said_in_words
from sparsing.study.store.study_store import StudyStore

SHOWN = (
    *("state", "tokens", "loss", "validation_loss", "activation_ratio"),
    *("limit_activation_ratio", "limit_low", "limit_high", "note"),
)
"""Newest values that people look at first."""


def chosen_runs(
    store: StudyStore,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    sort: str | None = None,
    *,
    whole: bool = True,
) -> pl.DataFrame:
    """Some runs of a study, and some of their columns.

    Args:
        store: of the study.
        columns: which; None: all, or without `whole` those that tell runs apart.
        where: SQL that holds for them, `activation = 'relu'`.
        sort: a column, rising; with `-` before it falling.
        whole: all columns, also those that are alike in all runs.

    Raises:
        DefinitionError: there is no such column, or `where` is no SQL.
    """
    frame = configurations(store)
    if where:
        context = pl.SQLContext(configurations=frame)
        asked = f"SELECT * FROM configurations WHERE {where}"
        frame = said_in_words(lambda: context.execute(asked, eager=True))
    if sort:
        name = known_column(sort.removeprefix("-"))
        frame = frame.sort(name, descending=sort.startswith("-"), nulls_last=True)
    if columns is not None:
        return frame.select([known_column(each) for each in columns])
    return frame if whole else frame.select(_telling(frame))


def known_column(name: str) -> str:
    """The name, if `configurations` has such a column; DefinitionError with the nearest."""
    if name in COLUMNS:
        return name
    near = difflib.get_close_matches(name, COLUMNS, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(COLUMNS)}"
    raise DefinitionError(
        f"runs have no column '{name}'; {hint}", code="unknown_column", column=name, near=near
    )


def _telling(frame: pl.DataFrame) -> list[str]:
    """The run, the configuration in which runs differ, and newest values that are there."""
    differing = [n for n in CONFIGURATION if n != "run" and frame[n].n_unique() > 1]
    there = [name for name in SHOWN if frame[name].null_count() < frame.height]
    return ["run", *differing, *there]
