"""Continuous refitting: fit what has new measurements, and nothing else.

Reads a study's `sparsity` table, appends to its `fits` table. All that counts is in the store: a
refit can stop at any moment, and the next one, by whomever, goes on from what is there. Several
may follow one study (its run's law service, a `sparsing serve` beside it): they take turns by a
lock on the study, and each reads again what another has fitted, so that nothing is fitted twice.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, closing, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from sparsing.analysis.refitting.fit_rows import Job, fit_rows
from sparsing.analysis.refitting.newest import Curve, newest_rows, read_curves
from sparsing.registry import ACTIVATIONS
from sparsing.study.definition.model import Study
from sparsing.study.errors import SparsingError
from sparsing.study.plan.runs import Run, plan_runs
from sparsing.study.store.format.partition import State
from sparsing.study.store.io.durable import stream_lock
from sparsing.study.store.study_store import StudyStore
from sparsing.study.store.training_data import read_record

LAW_OF_ACTIVATION = {name: entry.law for name, entry in ACTIVATIONS.items()}
"""The paper's form for each activation: gates that are exactly zero fall, the others rise."""
TURN_SECONDS = 0.05
"""How often a refitter asks whether another one has ended its turn."""

Key = tuple[str, tuple[int, ...], tuple[float, ...]]


def refit(store: StudyStore, *, code_version: str) -> int:
    """Fit every run whose curve changed since its newest fit; returns the fits appended."""
    return Refitter(store, code_version=code_version).refit()


class Refitter:
    """Refits a study again and again, and reads only what is new since it last looked.

    `refit` and `look` are for one thread at a time; `lag_seconds` and `stop` for any.
    """

    def __init__(self, store: StudyStore, *, code_version: str) -> None:
        self._store, self._code_version = store, code_version
        self._runs = plan_runs(store.study)
        self._measured: dict[str, State] = {}
        self._fits: dict[str, State] = {}
        self._fitted: dict[tuple[str, str], Key] = {}
        self._waiting: dict[str, list[Job]] = {}
        self._has_looked = False
        self._stopping = threading.Event()

    def refit(self) -> int:
        """Fit every run whose curve changed since its newest fit; returns the fits appended.

        While another refitter of the study is at work, this one waits for its end. Raises
        StoreError when the store takes no rows, and SparsingError, after all other runs are done,
        for curves whose fit failed.
        """
        if not self.look():
            return 0
        with ExitStack() as turn:
            while not self._take(turn):
                if self._stopping.wait(TURN_SECONDS):
                    return 0
            self.look()
            return self._fit_waiting()

    def look(self) -> bool:
        """See what is new, and fit nothing; whether any curve has no fit yet."""
        names = {run.id: self._store.state("sparsity", run.id) for run in self._runs}
        changed = [run for run in self._runs if self._is_new(run.id, names[run.id])]
        if changed:
            ids = [run.id for run in changed]
            self._read_fits(ids)
            curves = read_curves(self._store, ids)
            for run in changed:
                self._measured[run.id] = names[run.id]
                self._set_waiting(run, curves.get(run.id))
        self._has_looked = True
        return bool(self._waiting)

    def lag_seconds(self) -> float | None:
        """Age of the newest measurement that is in no fit yet, the largest of all runs; 0: all are.

        Measurements that a fit would not use count only until they are looked at. None before the
        first look.
        """
        if not self._has_looked:
            return None
        times = [jobs[0].curve.measured_at.timestamp() for jobs in list(self._waiting.values())]
        for run in self._runs:
            new = self._store.state("sparsity", run.id) - self._measured.get(run.id, State())
            folder = self._store.partition("sparsity", run.id)
            with suppress(FileNotFoundError):
                times += [max((folder / name).stat().st_mtime for name, _ in new)] if new else []
        now = time.time()
        return max(0.0, now - min(times, default=now))

    def stop(self) -> None:
        """End a `refit` at work after the run at which it is."""
        self._stopping.set()

    def _take(self, turn: ExitStack) -> bool:
        """Take the study's lock on refitting, until `turn` ends; False while another has it.

        On an object store there are no locks: two refitters there may fit the same curve.
        """
        if not isinstance(self._store.place, Path):
            return True
        with suppress(BlockingIOError):
            turn.enter_context(stream_lock(self._store.place / ".writing" / "fits" / "turn.lock"))
            return True
        return False

    def _fit_waiting(self) -> int:
        jobs = [job for each in self._waiting.values() for job in each]
        appended = 0
        failed: list[tuple[Job, Exception]] = []
        with closing(fit_rows(jobs)) as fitted:
            for _, of_run in groupby(fitted, key=lambda done: done[0].curve.run):
                done = list(of_run)
                errors = [(job, made) for job, made in done if isinstance(made, Exception)]
                failed += errors
                if not errors:
                    appended += self._append(done)
                if self._stopping.is_set():
                    break
        if failed:
            raise SparsingError("\n".join(_said(*each) for each in failed)) from failed[0][1]
        return appended

    def _append(self, done: list[tuple[Job, Any]]) -> int:
        curve = done[0][0].curve
        with self._store.writer("fits", run=curve.run, attempt=curve.attempt) as writer:
            for _, row in done:
                writer.append(writer.next_seq, [row])
        for job, _ in done:
            self._fitted[curve.run, job.law] = key(curve)
        self._fits[curve.run] = self._store.state("fits", curve.run)
        del self._waiting[curve.run]
        return len(done)

    def _is_new(self, run: str, names: State) -> bool:
        """Whether a run has new measurements, or is waiting and has new fits."""
        if names != self._measured.get(run, State()):
            return True
        return run in self._waiting and self._store.state("fits", run) != self._fits[run]

    def _read_fits(self, runs: list[str]) -> None:
        """Know what has been fitted of some runs, by whomever."""
        names = {run: self._store.state("fits", run) for run in runs}
        changed = [run for run in runs if names[run] != self._fits.get(run, State())]
        if changed:
            columns = ["run", "law", "stage", "rows_tokens", "rows_activation_ratio", "verdict"]
            newest = newest_rows(self._store.scan("fits", changed)).select(columns).collect()
            for run, law, stage, tokens, ratios, verdict in newest.iter_rows():
                # A fit without a verdict is of a version whose limits were the word of one law.
                if verdict is not None:
                    self._fitted[run, law] = (stage, tuple(tokens), tuple(ratios))
        self._fits |= names

    def _set_waiting(self, run: Run, curve: Curve | None) -> None:
        jobs = self._jobs(run, curve) if curve else []
        if jobs:
            self._waiting[run.id] = jobs
        else:
            self._waiting.pop(run.id, None)

    def _jobs(self, run: Run, whole: Curve) -> list[Job]:
        """The fits that a run needs; none of a curve without two token counts."""
        curve = whole.between(
            run.warmup_steps * run.batch_tokens, (run.steps - run.decay_steps) * run.batch_tokens
        )
        if len(curve.tokens) < 2:
            return []
        wanted = laws_of(self._store.study, run)
        record = read_record(self._store.place)
        return [
            Job(
                curve=curve,
                law=law,
                dropped=len(whole.tokens) - len(curve.tokens),
                code_version=self._code_version,
                repeat=record.first_repeat_tokens() if record else None,
            )
            for law in wanted
            if self._fitted.get((run.id, law)) != key(curve)
        ]


def _said(job: Job, error: Exception) -> str:
    what = str(error) or type(error).__name__
    return f"{job.curve.run}: the fit of law {job.law} failed, and is tried again: {what}"


def laws_of(study: Study, run: Run) -> list[str]:
    """The laws to fit to a run: the definition's, or the form of its activation."""
    if study.laws == "auto":
        return [LAW_OF_ACTIVATION[run.activation]]
    return list(dict.fromkeys(study.laws))


def key(curve: Curve) -> Key:
    """What decides whether a curve has to be fitted again."""
    return curve.stage, tuple(curve.tokens), tuple(curve.activation_ratio)
