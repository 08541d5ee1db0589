"""What a store holds that is newest: each run's measured curve, and its fits.

Needs no fitting, so that `sparsing laws` answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from sparsing.study.guarded_json import read_json
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.study_store import StudyStore

METRIC = "cett_ppl"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A run's measured curve: by rising tokens, of one stage."""

    run: str
    stage: str
    attempt: int
    step: int
    tokens: list[int]
    activation_ratio: list[float]
    half_width: list[float | None]
    """Half the 95 % interval of each ratio; None where it was not measured."""
    measured_at: datetime
    """When its newest point was written."""

    def between(self, warmup_tokens: int, stable_tokens: int) -> Curve:
        """The curve without the points of the warm-up, and of the decay after `stable_tokens`."""
        inside = [i for i, at in enumerate(self.tokens) if warmup_tokens < at <= stable_tokens]
        return replace(
            self,
            tokens=[self.tokens[i] for i in inside],
            activation_ratio=[self.activation_ratio[i] for i in inside],
            half_width=[self.half_width[i] for i in inside],
        )

    @property
    def weights(self) -> list[float] | None:
        """Of each point in a fit: the inverse square of its interval; None where one has none.

        An interval is an estimate itself: one under a third of the median counts as a third.
        """
        widths = np.array([width or np.nan for width in self.half_width], dtype=float)
        if not len(widths) or np.isnan(widths).any():
            return None
        weights = np.maximum(widths, np.median(widths) / 3) ** -2.0
        return (weights / weights.mean()).tolist()


def read_curves(store: StudyStore, runs: list[str] | None = None) -> dict[str, Curve]:
    """The measured curve of each run, or of `runs`; stage `final` where all live points have it.

    Of a run that an earlier version began to measure, all points are counted in the dense run, as
    its rows are: one curve does not mix two ways of counting.
    """
    earlier = pl.col("counted_in").is_null().any().over("run", "stage")
    dense_run = pl.coalesce("activation_ratio_dense_run", "activation_ratio")
    half_width = (pl.col("activation_ratio_high") - pl.col("activation_ratio_low")) / 2
    rows = (
        store.scan("sparsity", runs)
        .filter(
            (pl.col("metric") == METRIC)
            & pl.col("domain").is_null()
            & pl.col("layer").is_null()
            & pl.col("activation_ratio").is_finite()
        )
        .unique(["run", "stage", "tokens"], keep="last", maintain_order=True)
        .with_columns(
            pl.when(earlier).then(dense_run).otherwise("activation_ratio").alias("activation_ratio")
        )
        .sort("run", "tokens")
        .group_by("run", "stage", maintain_order=True)
        .agg(
            "tokens",
            "activation_ratio",
            half_width.alias("half_width"),
            pl.col("attempt", "step").max(),
            pl.col("written_at").max().alias("measured_at"),
        )
        .collect()
    )
    found: dict[str, dict[str, Curve]] = {}
    for row in rows.iter_rows(named=True):
        found.setdefault(row["run"], {})[row["stage"]] = Curve(**row)
    return {run: _chosen(**stages) for run, stages in found.items()}


def _chosen(*, live: Curve | None = None, final: Curve | None = None) -> Curve:
    """The final curve once it has all the live one's points, until then the live one."""
    if live is None or (final is not None and set(live.tokens) <= set(final.tokens)):
        assert final is not None
        return final
    return live


def newest_fits(store: StudyStore, run: str | Sequence[str] | None = None) -> pl.DataFrame:
    """The newest row of `fits` for each run and law, or of one run or some, in the plan's order."""
    order = {run.id: i for i, run in enumerate(plan_runs(store.study))}
    position = pl.col("run").replace_strict(order, default=len(order), return_dtype=pl.Int64)
    return newest_rows(store.scan("fits", run)).collect().sort(position, "law")


def newest_rows(rows: pl.LazyFrame) -> pl.LazyFrame:
    """The last of each run and law: all fits are in one stream, in the order of their turns."""
    return rows.unique(["run", "law"], keep="last", maintain_order=True)


def laws_document(store: StudyStore, run: str | None = None) -> dict[str, Any]:
    """The newest fits of a study, or of one run, as a document for JSON."""
    rows = newest_fits(store, run).to_dicts()
    return {"study": store.study_id, "fits": [readable(row) for row in rows]}


def readable(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the `fits` table with its JSON columns read."""
    texts = ("parameters", "intervals", "identified", "criteria", "settings", "warnings")
    return row | {name: read_json(row[name], f"fits.{name}") for name in texts}
