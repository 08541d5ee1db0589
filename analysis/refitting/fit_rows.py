"""From a run's measured curve to a row of the `fits` table; many curves on all cores."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from json import dumps
from multiprocessing import get_context
from typing import Any

import numpy as np

from sparsing.analysis.evidence.evidence import Evidence, weigh
from sparsing.analysis.fitting.fit import Fit
from sparsing.analysis.fitting.fit_curve import fit_curve
from sparsing.analysis.refitting.newest import Curve

NORMAL_95 = 1.96
PARALLEL_FROM = 64
"""This many fits or more use all cores; fewer are done before a process has started."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One law to fit to one curve, whose warm-up and decay are left out already."""

    curve: Curve
    law: str
    dropped: int
    """Points of the warm-up and the decay."""
    code_version: str
    repeat: tuple[float, str] | None = None
    """Training tokens at which the first domain's text begins again, and which it is."""


Outcome = dict[str, Any] | Exception
"""A row of the `fits` table, or what the fit raised: one curve must not keep others from theirs."""


def fit_rows(jobs: list[Job]) -> Generator[tuple[Job, Outcome]]:
    """The outcome of each job, in order; closing it leaves the others undone."""
    if len(jobs) < PARALLEL_FROM:
        for job in jobs:
            yield job, _outcome(job)
        return
    # Not by fork: the caller's threads, polars' and the store's among them, would hang in a copy.
    pool = ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), _leave_interrupts_to_parent)
    try:
        yield from zip(jobs, pool.map(_outcome, jobs, chunksize=8), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_parent() -> None:
    """Ctrl-C reaches all processes of a terminal; what it means is for the parent to say."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _outcome(job: Job) -> Outcome:
    try:
        return fit_row(job)
    except Exception as error:
        return error


def fit_row(job: Job) -> dict[str, Any]:
    """Fit one law and describe it, with what repeats the fit."""
    began = time.perf_counter()
    curve = job.curve
    weights = curve.weights
    fit = fit_curve(curve.tokens, curve.activation_ratio, law=job.law, drop=0, weights=weights)
    evidence = weigh(fit, shared_error=shared_error(curve, fit))
    limit = evidence.limit()
    return {
        "step": curve.step,
        "tokens": curve.tokens[-1],
        "stage": curve.stage,
        "law": fit.law,
        "parameters": dumps(fit.parameters),
        "intervals": dumps(fit.intervals),
        "identified": dumps(fit.identified),
        "limit_activation_ratio": limit.value if limit.identified else None,
        "limit_low": limit.low,
        "limit_high": limit.high,
        "mse": fit.mse,
        "criteria": dumps(fit.criteria),
        "points": fit.n,
        "dropped": job.dropped,
        "rows_tokens": curve.tokens,
        "rows_activation_ratio": curve.activation_ratio,
        "rows_weight": weights,
        "settings": dumps(fit.settings | {"code_version": job.code_version}),
        "warnings": dumps([*fit.warnings, *_repeated(job)]),
        "fit_seconds": time.perf_counter() - began,
        "verdict": evidence.verdict.word,
        "verdict_reason": evidence.verdict.reason,
        "shared_error": evidence.shared_error,
    }


def shared_error(curve: Curve, fit: Fit) -> float:
    """Relative standard error that the points have in common, given their scatter about a fit.

    All points of a run are measured on one text at one CETT value, each with an interval. The part
    of it by which they do not scatter about their law is shared. 0 without intervals.
    """
    widths = np.array([width or np.nan for width in curve.half_width], dtype=float)
    known = np.isfinite(widths)
    if not known.any():
        return 0.0
    relative = widths[known] / np.array(curve.activation_ratio)[known] / NORMAL_95
    scatter = np.sqrt(fit.mse) / float(fit.points.values.mean())
    return float(np.sqrt(max(np.median(relative) ** 2 - scatter**2, 0.0)))


def _repeated(job: Job) -> list[str]:
    """Which points were measured after more than one epoch over a domain's text."""
    if job.repeat is None:
        return []
    tokens, domain = job.repeat
    beyond = [at for at in job.curve.tokens if at > tokens]
    if not beyond:
        return []
    return [
        f"{len(beyond)} of {len(job.curve.tokens)} points, from {beyond[0]:,} tokens on, are "
        f"beyond one epoch over {domain} ({tokens:,.0f} tokens): repeated text bends the law"
    ]


def weigh_again(row: Mapping[str, Any]) -> Evidence:
    """The evidence behind a row of the `fits` table, made again from what it rests on."""
    return weigh(fit_again(row), shared_error=row.get("shared_error") or 0.0)


def fit_again(row: Mapping[str, Any]) -> Fit:
    """The fit that a row of the `fits` table describes, made again from what it rests on."""
    return fit_curve(
        row["rows_tokens"],
        row["rows_activation_ratio"],
        law=row["law"],
        drop=0,
        weights=row["rows_weight"],
    )
