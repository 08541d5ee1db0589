"""Continuous refitting: fit what has new measurements, and nothing else.

Reads a study's `sparsity` table, appends to its `fits` table. The store is the only state: a
refit can stop at any moment, and the next one goes on from what is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from json import dumps
from typing import Any

import polars as pl

from analysis.fit import Fit
from analysis.fitting import fit_curve
from study.definition import Study
from study.plan import Run, plan_runs
from study.store import StudyStore

METRIC = "cett_ppl"
LAW_OF_ACTIVATION = {"relu": "relu", "relu2": "relu", "silu": "silu", "gelu": "silu"}
"""The paper's form for each activation: gates that are exactly zero fall, the others rise."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A run's measured curve: by rising tokens, of one stage."""

    run: str
    stage: str
    attempt: int
    step: int
    tokens: list[int]
    activation_ratio: list[float]

    def after(self, warmup_tokens: int) -> Curve:
        """The curve without the points of the warm-up."""
        kept = [i for i, tokens in enumerate(self.tokens) if tokens > warmup_tokens]
        return Curve(
            run=self.run,
            stage=self.stage,
            attempt=self.attempt,
            step=self.step,
            tokens=[self.tokens[i] for i in kept],
            activation_ratio=[self.activation_ratio[i] for i in kept],
        )


def refit(store: StudyStore, *, code_version: str) -> int:
    """Fit every run whose curve changed since its newest fit; returns the fits appended."""
    curves = read_curves(store)
    fitted = _fitted_rows(store)
    appended = 0
    for run in plan_runs(store.study):
        if run.id not in curves:
            continue
        whole = curves[run.id]
        curve = whole.after(run.warmup_steps * run.batch_tokens)
        laws = [law for law in laws_of(store.study, run) if fitted.get((run.id, law)) != key(curve)]
        if laws and len(set(curve.tokens)) > 1:
            _append(store, whole, curve, laws, code_version)
            appended += len(laws)
    return appended


def laws_of(study: Study, run: Run) -> list[str]:
    """The laws to fit to a run: the definition's, or the form of its activation."""
    if study.laws == "auto":
        return [LAW_OF_ACTIVATION[run.activation]]
    return list(dict.fromkeys(study.laws))


def read_curves(store: StudyStore) -> dict[str, Curve]:
    """The measured curve of each run: stage `final` where every live checkpoint has it."""
    rows = (
        store.scan("sparsity")
        .filter(
            (pl.col("metric") == METRIC)
            & pl.col("domain").is_null()
            & pl.col("layer").is_null()
            & pl.col("activation_ratio").is_finite()
        )
        .select("run", "stage", "attempt", "step", "tokens", "activation_ratio")
        .unique(["run", "stage", "tokens"], keep="last", maintain_order=True)
        .sort("run", "tokens")
        .collect()
    )
    by_run = rows.partition_by("run", as_dict=True)
    return {str(run): _curve(str(run), frame) for (run,), frame in by_run.items()}


def _curve(run: str, frame: pl.DataFrame) -> Curve:
    live, final = (frame.filter(pl.col("stage") == stage) for stage in ("live", "final"))
    complete = set(live["tokens"]) <= set(final["tokens"]) and len(final) > 0
    chosen = final if complete else live
    return Curve(
        run=run,
        stage="final" if complete else "live",
        attempt=int(chosen["attempt"].max()),  # type: ignore[arg-type]
        step=int(chosen["step"].max()),  # type: ignore[arg-type]
        tokens=chosen["tokens"].to_list(),
        activation_ratio=chosen["activation_ratio"].to_list(),
    )


def key(curve: Curve) -> tuple[str, tuple[int, ...], tuple[float, ...]]:
    """What decides whether a curve has to be fitted again."""
    return curve.stage, tuple(curve.tokens), tuple(curve.activation_ratio)


def _fitted_rows(store: StudyStore) -> dict[tuple[str, str], Any]:
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


def _append(
    store: StudyStore, whole: Curve, curve: Curve, laws: list[str], code_version: str
) -> None:
    with store.writer("fits", run=curve.run, attempt=curve.attempt) as writer:
        for law in laws:
            fit = fit_curve(curve.tokens, curve.activation_ratio, law=law, drop=0)
            dropped = len(whole.tokens) - len(curve.tokens)
            settings = fit.settings | {"code_version": code_version}
            writer.append(writer.next_seq, [_row(curve, fit, dropped, settings)])


def _row(curve: Curve, fit: Fit, dropped: int, settings: dict[str, Any]) -> dict[str, Any]:
    limit_name = fit.limit_parameter
    low, high = fit.intervals[limit_name] if limit_name else (None, None)
    return {
        "step": curve.step,
        "tokens": curve.tokens[-1],
        "stage": curve.stage,
        "law": fit.law,
        "parameters": dumps(fit.parameters),
        "intervals": dumps(fit.intervals),
        "identified": dumps(fit.identified),
        "limit_activation_ratio": fit.limit,
        "limit_low": low,
        "limit_high": high,
        "mse": fit.mse,
        "criteria": dumps(fit.criteria),
        "points": fit.n,
        "dropped": dropped,
        "rows_tokens": curve.tokens,
        "rows_activation_ratio": curve.activation_ratio,
        "settings": dumps(settings),
        "warnings": dumps(fit.warnings),
        "fit_seconds": fit.fit_seconds,
    }
