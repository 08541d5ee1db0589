"""What the live page of a study shows, as documents for JSON: runs, curves, laws, health."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from sparsing.analysis.figures.curves import AHEAD, LAW_POINTS, by_size, colours
from sparsing.analysis.figures.data import NAMES, ReportedRun, StudyData, group_of
from sparsing.analysis.figures.style import dark
from sparsing.analysis.fitting.fit_table import verdict_text
from sparsing.analysis.forecasting.ledger import score, summary
from sparsing.analysis.refitting.fit_rows import weigh_again
from sparsing.analysis.refitting.follow import FollowedStudy
from sparsing.analysis.refitting.newest import Curve, newest_fits, read_curves
from sparsing.analysis.report.finding import finding
from sparsing.analysis.service.assets import assets_version
from sparsing.analysis.service.health import done_seconds, health
from sparsing.analysis.service.ttl_cache import TimedCache
from sparsing.study.guarded_json import read_json
from sparsing.study.plan.runs import Run, plan_runs
from sparsing.study.status.study_status import RunStatus, StudyStatus
from sparsing.study.store.by_run import ByRun

FINDING_SECONDS = 5.0
MOST_POINTS = 8000
"""About this many points of curves are in the document of a study: what a screen can show."""
FEWEST_POINTS_OF_RUN = 6
MOST_LAWS = 30
"""With more runs, laws and bands would cover each other: they are drawn for one run at a time."""
LOSS_POINTS = 300
DIGITS = 6
"""Significant digits of what is drawn."""


class LiveStudy:
    """Makes the documents of one study again and again, and reads only what is new."""

    def __init__(self, followed: FollowedStudy) -> None:
        self._followed, self._store = followed, followed.store
        self._planned = plan_runs(self._store.study)
        self._groups = _groups(self._planned)
        self._curves = ByRun(self._store, "sparsity", partial(read_curves, self._store))
        self._fits = ByRun(self._store, "fits", self._read_fits)
        self._lines: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}
        self._finding = TimedCache(
            self._find, FINDING_SECONDS, partial(self._store.states, "sparsity")
        )
        self._fared = TimedCache(self._score, FINDING_SECONDS, self._states_of_verdicts)

    def version(self) -> object:
        """Differs from what it was when the study's document would say something else."""
        # Ten seconds: runs fall silent, and the service behind, while nothing is written.
        return self._followed.version(), int(time.monotonic() / 10)

    def study(self) -> dict[str, Any]:
        """All of a study at a glance: what the page shows of it."""
        status = self._followed.status.read()
        data = self._data(status)
        fits = self._fits.now()
        return self.glance(status) | {
            "page_version": assets_version(),
            "name": self._store.study.name,
            "description": self._store.study.description,
            "states": status.states,
            "points": sum(len(run.curve.tokens) for run in data.measured if run.curve),
            "p_percent": self._store.study.measurement.p_percent,
            "runs": [_run(run) | {"group": run.group} for run in data.runs],
            "panels": self._panels(data, fits),
            "fits": [_fit(row) for run in self._planned for row in fits.get(run.id, ())],
            "verdicts": self._fared.get(),
        }

    def glance(self, status: StudyStatus) -> dict[str, Any]:
        """The study in few words: is it healthy, what did it find, when is it done."""
        seconds = done_seconds(status)
        speeds = [run.tokens_per_second for run in status.runs if run.tokens_per_second]
        return {
            "study": self._store.study_id,
            "health": health(status, self._followed.trouble()).as_dict(),
            "finding": self._finding.get(),
            "tokens": sum(run.tokens for run in status.runs),
            "tokens_planned": sum(run.run.tokens for run in status.runs),
            "tokens_per_second": sum(speeds) if speeds else None,
            "done_at": None if seconds is None else round(time.time() + seconds, -1),
        }

    def lines(self, run: str) -> list[dict[str, Any]]:
        """The newest laws of a run as lines: tokens, value, low, high, and where the points end."""
        rows = self._fits.now().get(run, [])
        cached = self._lines.get(run)
        if cached is None or cached[0] is not rows:
            cached = self._lines[run] = (rows, [_line(row) for row in rows])
        return cached[1]

    def losses(self, run: str) -> dict[str, list[float]]:
        """Training losses of a run against tokens, thinned to what a screen shows."""
        rows = self._store.scan("steps", run).select("step", "tokens", "loss")
        rows = rows.filter(pl.col("loss").is_finite())
        last = rows.unique("step", keep="last", maintain_order=True).sort("step").collect()
        drawn = last[_evenly(len(last), LOSS_POINTS)]
        return {"tokens": drawn["tokens"].to_list(), "loss": _short(drawn["loss"].to_list())}

    def _data(self, status: StudyStatus) -> StudyData:
        """What the report knows as well, without its laws."""
        curves = self._curves.now()
        runs = [
            ReportedRun(
                run=each.run,
                status=each,
                group=self._groups[each.run.id],
                curve=curves.get(each.run.id),
                laws=(),
            )
            for each in status.runs
        ]
        return StudyData(self._store, tuple(runs))

    def _score(self) -> str:
        """How earlier verdicts fared, in words; empty where none is kept."""
        found = score(self._store)
        return f"Earlier verdicts: {summary(found)}." if found else ""

    def _states_of_verdicts(self) -> object:
        return self._store.states("verdicts"), self._store.states("fits")

    def _find(self) -> str:
        return finding(self._data(self._followed.status.read()))

    def _read_fits(self, runs: list[str]) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}
        for row in newest_fits(self._store, runs).iter_rows(named=True):
            found.setdefault(row["run"], []).append(row)
        return found

    def _panels(self, data: StudyData, fits: dict[str, Any]) -> list[dict[str, Any]]:
        chosen, runs = colours(data), data.measured
        most = max(FEWEST_POINTS_OF_RUN, MOST_POINTS // max(1, len(runs)))
        drawn = {run.run.id: self._curve(run, most, lines=len(runs) <= MOST_LAWS) for run in runs}
        return [
            {
                "name": NAMES[activation],
                "log": data.log_spaced,
                "groups": [
                    {"name": group, "light": colour, "dark": dark(colour)}
                    for group, colour in {r.group: chosen[r.run.id] for r in by_size(own)}.items()
                ],
                "curves": [drawn[run.run.id] for run in own],
            }
            for activation, own in data.by_activation().items()
        ]

    def _curve(self, run: ReportedRun, most: int, *, lines: bool) -> dict[str, Any]:
        assert run.curve is not None
        return {
            "run": run.run.id,
            "group": run.group,
            "stage": run.curve.stage,
            "warmup_tokens": run.warmup_tokens,
            **thinned(run.curve, most),
            "lines": self.lines(run.run.id) if lines else [],
        }


def thinned(curve: Curve, most: int) -> dict[str, list[Any]]:
    """At most `most` points of a curve, its first and its last among them.

    They are evenly spaced in the square root of tokens, for curves are steep at their beginning.
    """
    tokens = np.asarray(curve.tokens, float)
    drawn = list(range(len(tokens)))
    if len(tokens) > most:
        roots = np.linspace(tokens[0] ** 0.5, tokens[-1] ** 0.5, most)[1:-1]
        between = np.searchsorted(tokens, roots**2)
        drawn = sorted({0, *between.tolist(), len(tokens) - 1})
    ratios = [curve.activation_ratio[i] for i in drawn]
    return {"tokens": [curve.tokens[i] for i in drawn], "ratios": _short(ratios)}


def _evenly(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return np.linspace(0, count - 1, most).round().astype(int).tolist()


def _short(values: Any) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]


def _groups(planned: list[Run]) -> dict[str, str]:
    """The group of each run; runs that differ in their seed alone are asked for once."""
    known: dict[Any, str] = {}
    found = {}
    for run in planned:
        kind = (run.activation, run.scale, run.d_h, run.layers, run.d_f)
        if kind not in known:
            known[kind] = group_of(run, planned)
        found[run.id] = known[kind]
    return found


def _run(reported: ReportedRun) -> dict[str, Any]:
    """A run as the page's table shows it: its status, with times in place of ages."""
    status: RunStatus = reported.status
    values = status.as_json()
    age, left = values.pop("age_seconds"), values.pop("eta_seconds")
    low, high = values.pop("limit_low"), values.pop("limit_high")
    newest = None if age is None else round(time.time() - age)
    done = None if newest is None or left is None else round(newest + left)
    return values | {
        "activation": NAMES[status.run.activation],
        "low": low,
        "high": high,
        "restarts": max(0, status.attempt - 1),
        "newest_at": newest,
        "done_at": done,
    }


def _fit(row: dict[str, Any]) -> dict[str, Any]:
    """A newest fit as the table of limits shows it."""
    names = ("run", "law", "stage", "tokens", "points", "dropped", "mse")
    limit = {"limit": row["limit_activation_ratio"], "low": row["limit_low"]}
    notes = read_json(row["warnings"], "fits.warnings")
    if row["verdict"]:
        notes = [f"law {verdict_text(row['verdict'], row['verdict_reason'])}", *notes]
    found = {name: row[name] for name in names} | limit | {"high": row["limit_high"]}
    return found | {"verdict": row["verdict"], "notes": notes}


def _line(row: dict[str, Any]) -> dict[str, Any]:
    evidence = weigh_again(row)
    first, last = min(row["rows_tokens"]), max(row["rows_tokens"])
    tokens = np.unique(np.append(np.geomspace(first, AHEAD * last, LAW_POINTS), last))
    value, low, high = evidence.predict_many(tokens, measurement=False)
    banded = evidence.answers
    return {
        "law": row["law"],
        "last_tokens": last,
        "tokens": [round(each) for each in tokens],
        "value": _short(value),
        "low": _short(low) if banded else None,
        "high": _short(high) if banded else None,
    }
