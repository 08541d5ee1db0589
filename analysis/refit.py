"""Continuous refitting: fit what has new measurements, and nothing else.

Reads a study's `sparsity` table, appends to its `fits` table. All that counts is in the store: a
refit can stop at any moment, and the next one, by whomever, goes on from what is there.
"""

from __future__ import annotations

import os
from itertools import groupby
from typing import Any

import polars as pl

from analysis.fit_rows import Curve, Job, fit_rows
from study.definition import Study
from study.plan import Run, plan_runs
from study.store import StudyStore

__all__ = ["METRIC", "Curve", "Refitter", "newest_fits", "read_curves", "refit"]

METRIC = "cett_ppl"
LAW_OF_ACTIVATION = {"relu": "relu", "relu2": "relu", "silu": "silu", "gelu": "silu"}
"""The paper's form for each activation: gates that are exactly zero fall, the others rise."""
FEW_RUNS = 16
"""So many runs are read one by one; of more, the whole table."""

Key = tuple[str, tuple[int, ...], tuple[float, ...]]


def refit(store: StudyStore, *, code_version: str) -> int:
    """Fit every run whose curve changed since its newest fit; returns the fits appended."""
    return Refitter(store, code_version=code_version).refit()


class Refitter:
    """Refits a study again and again, and reads only what is new since it last looked."""

    def __init__(self, store: StudyStore, *, code_version: str) -> None:
        self._store, self._code_version = store, code_version
        self._runs = plan_runs(store.study)
        self._seen: dict[str, frozenset[str]] = {}
        self._fitted = _fitted_rows(store)

    def refit(self) -> int:
        """Fit every run whose curve changed since its newest fit; returns the fits appended."""
        files = {run.id: _file_names(self._store, run.id) for run in self._runs}
        changed = [
            run for run in self._runs if files[run.id] != self._seen.get(run.id, frozenset())
        ]
        curves = read_curves(self._store, [run.id for run in changed]) if changed else {}
        jobs = [
            job for run in changed if run.id in curves for job in self._jobs(run, curves[run.id])
        ]
        for _, of_run in groupby(fit_rows(jobs), key=lambda done: done[0].curve.run):
            self._append(list(of_run))
        self._seen = files
        return len(jobs)

    def _jobs(self, run: Run, whole: Curve) -> list[Job]:
        """The fits that a run needs; none of a curve without two token counts."""
        curve = whole.between(
            run.warmup_steps * run.batch_tokens, (run.steps - run.decay_steps) * run.batch_tokens
        )
        if len(curve.tokens) < 2:
            return []
        wanted = laws_of(self._store.study, run)
        dropped = len(whole.tokens) - len(curve.tokens)
        return [
            Job(curve=curve, law=law, dropped=dropped, code_version=self._code_version)
            for law in wanted
            if self._fitted.get((run.id, law)) != key(curve)
        ]

    def _append(self, done: list[tuple[Job, dict[str, Any]]]) -> None:
        curve = done[0][0].curve
        with self._store.writer("fits", run=curve.run, attempt=curve.attempt) as writer:
            for _, row in done:
                writer.append(writer.next_seq, [row])
        for job, _ in done:
            self._fitted[curve.run, job.law] = key(curve)


def _file_names(store: StudyStore, run: str) -> frozenset[str]:
    """What lies in a run's folder of the `sparsity` table; files never change, so names tell."""
    try:
        return frozenset(os.listdir(store.partition("sparsity", run)))
    except FileNotFoundError:
        return frozenset()


def laws_of(study: Study, run: Run) -> list[str]:
    """The laws to fit to a run: the definition's, or the form of its activation."""
    if study.laws == "auto":
        return [LAW_OF_ACTIVATION[run.activation]]
    return list(dict.fromkeys(study.laws))


def read_curves(store: StudyStore, runs: list[str] | None = None) -> dict[str, Curve]:
    """The measured curve of each run, or of `runs`; stage `final` where all live points have it."""
    rows = (
        _scan(store, runs)
        .filter(
            (pl.col("metric") == METRIC)
            & pl.col("domain").is_null()
            & pl.col("layer").is_null()
            & pl.col("activation_ratio").is_finite()
        )
        .unique(["run", "stage", "tokens"], keep="last", maintain_order=True)
        .sort("run", "tokens")
        .group_by("run", "stage", maintain_order=True)
        .agg("tokens", "activation_ratio", pl.col("attempt", "step").max())
        .collect()
    )
    found: dict[str, dict[str, Curve]] = {}
    for row in rows.iter_rows(named=True):
        found.setdefault(row["run"], {})[row["stage"]] = Curve(**row)
    return {run: _chosen(**stages) for run, stages in found.items()}


def _scan(store: StudyStore, runs: list[str] | None) -> pl.LazyFrame:
    if runs is None:
        return store.scan("sparsity")
    if len(runs) > FEW_RUNS:
        return store.scan("sparsity").filter(pl.col("run").is_in(runs))
    return pl.concat([store.scan("sparsity", run) for run in runs])


def _chosen(*, live: Curve | None = None, final: Curve | None = None) -> Curve:
    """The final curve once it has all the live one's points, until then the live one."""
    if live is None or (final is not None and set(live.tokens) <= set(final.tokens)):
        assert final is not None
        return final
    return live


def key(curve: Curve) -> Key:
    """What decides whether a curve has to be fitted again."""
    return curve.stage, tuple(curve.tokens), tuple(curve.activation_ratio)


def _fitted_rows(store: StudyStore) -> dict[tuple[str, str], Key]:
    """For each run and law, the key of the curve in its newest fit."""
    columns = ["run", "law", "stage", "rows_tokens", "rows_activation_ratio"]
    newest = newest_fits(store).select(columns)
    return {
        (run, law): (stage, tuple(tokens), tuple(ratios))
        for run, law, stage, tokens, ratios in newest.iter_rows()
    }


def newest_fits(store: StudyStore) -> pl.DataFrame:
    """The newest row of the `fits` table for each run and law, in the order of the plan."""
    rows = store.scan("fits").unique(["run", "law"], keep="last", maintain_order=True).collect()
    order = {run.id: i for i, run in enumerate(plan_runs(store.study))}
    position = pl.col("run").replace_strict(order, default=len(order), return_dtype=pl.Int64)
    return rows.sort(position, "law")
