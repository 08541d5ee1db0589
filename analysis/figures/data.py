"""What the report shows, read from a study's store alone: runs, curves, fits, losses, details."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from sparsing.analysis.evidence.evidence import Evidence
from sparsing.analysis.fitting.fit import Fit
from sparsing.analysis.refitting.fit_rows import weigh_again
from sparsing.analysis.refitting.newest import METRIC, Curve, newest_fits, read_curves
from sparsing.registry import ACTIVATIONS
from sparsing.study.guarded_json import read_json
from sparsing.study.plan.runs import Run, plan_runs
from sparsing.study.status.study_status import RunStatus, StudyStatus
from sparsing.study.store.study_store import StudyStore

NAMES = {name: entry.title for name, entry in ACTIVATIONS.items()}
"""Activation functions as the literature writes them."""
NEAR = 1.1
"""Values of an axis that differ by less than this factor count as the same."""

MOST_MARKS = 1500
"""Marks in the figures against tokens, about."""

JSON_COLUMNS = ("parameters", "intervals", "identified", "criteria", "warnings")


@dataclass(frozen=True, kw_only=True)
class FittedLaw:
    """A newest row of the table `fits`, its JSON columns read, and the evidence behind it."""

    row: dict[str, Any]
    evidence: Evidence

    @property
    def fit(self) -> Fit:
        """Of its own law."""
        return self.evidence.fit


@dataclass(frozen=True, kw_only=True)
class ReportedRun:
    """A run of the study with what the store has of it."""

    run: Run
    status: RunStatus
    group: str
    """What tells it from other runs of its activation, seeds aside; empty where nothing does."""
    curve: Curve | None
    """Measured points of the newest complete stage."""
    laws: tuple[FittedLaw, ...]

    @property
    def name(self) -> str:
        """Its activation function, as the literature writes it."""
        return NAMES[self.run.activation]

    @property
    def warmup_tokens(self) -> int:
        """Tokens of the warm-up; points in it are not fitted."""
        return self.run.warmup_steps * self.run.batch_tokens

    @property
    def stable_points(self) -> list[tuple[int, float]]:
        """Tokens and activation ratios of the checkpoints in the stable stage."""
        if self.curve is None:
            return []
        end = (self.run.steps - self.run.decay_steps) * self.run.batch_tokens
        pairs = zip(self.curve.tokens, self.curve.activation_ratio, strict=True)
        return [(t, ratio) for t, ratio in pairs if self.warmup_tokens < t <= end]


@dataclass(frozen=True)
class StudyData:
    """A study as its store holds it now."""

    store: StudyStore
    runs: tuple[ReportedRun, ...]

    @classmethod
    def read(cls, store: StudyStore) -> StudyData:
        """Runs in the order of the plan."""
        curves, laws = read_curves(store), _laws(store)
        states = {status.run.id: status for status in StudyStatus.read(store).runs}
        planned = plan_runs(store.study)
        return cls(
            store,
            tuple(
                ReportedRun(
                    run=run,
                    status=states[run.id],
                    group=group_of(run, planned),
                    curve=curves.get(run.id),
                    laws=tuple(laws.get(run.id, ())),
                )
                for run in planned
            ),
        )

    @property
    def measured(self) -> list[ReportedRun]:
        """The runs with at least one measured checkpoint."""
        return [run for run in self.runs if run.curve]

    @property
    def mark_every(self) -> int:
        """1, or in large studies the k of "every k-th point is marked", to keep the page small."""
        return 1 + sum(len(run.curve.tokens) for run in self.measured if run.curve) // MOST_MARKS

    def by_activation(self) -> dict[str, list[ReportedRun]]:
        """The measured runs by activation function."""
        found: dict[str, list[ReportedRun]] = {}
        for run in self.measured:
            found.setdefault(run.run.activation, []).append(run)
        return found

    def series(self) -> dict[tuple[str, str], list[ReportedRun]]:
        """The measured runs by activation and group: what is left are seeds."""
        found: dict[tuple[str, str], list[ReportedRun]] = {}
        for run in self.measured:
            found.setdefault((run.run.activation, run.group), []).append(run)
        return found

    @cached_property
    def log_spaced(self) -> bool:
        """Whether the checkpoints are nearer to equal ratios than to equal steps."""
        return spaced_by_ratio(max((r.run.checkpoint_steps for r in self.runs), key=len))

    @cached_property
    def steps(self) -> pl.DataFrame:
        """Training loss: run, step, tokens, loss, tokens_per_second; one row for each step."""
        columns = ["run", "step", "tokens", "loss", "tokens_per_second"]
        rows = self.store.scan("steps").select(columns).filter(pl.col("loss").is_finite())
        return rows.unique(["run", "step"], keep="last").sort("run", "step").collect()

    @cached_property
    def validation(self) -> pl.DataFrame:
        """Dense validation loss of the mixture at each checkpoint: run, tokens, loss."""
        rows = self.store.scan("checkpoints").filter(
            pl.col("domain").is_null(), pl.col("validation_loss").is_finite()
        )
        named = rows.select("run", "tokens", loss=pl.col("validation_loss"))
        return named.unique(["run", "tokens"], keep="last").sort("run", "tokens").collect()

    def last_validation(self, run: ReportedRun) -> tuple[int, float] | None:
        """Tokens and loss (nats per token) of the newest checkpoint."""
        found = self.validation.filter(pl.col("run") == run.run.id)
        return (found["tokens"][-1], found["loss"][-1]) if len(found) else None

    @cached_property
    def layers(self) -> pl.DataFrame:
        """Ratios by layer: run, tokens, domain (null = mixture), layer, activation_ratio."""
        rows = self._of_curves("sparsity").filter(
            pl.col("layer").is_not_null(), pl.col("metric") == METRIC
        )
        columns = ["run", "tokens", "domain", "layer", "activation_ratio"]
        return rows.select(columns).unique(columns[:4], keep="last").sort(columns[:4]).collect()

    @cached_property
    def newest_measurements(self) -> dict[str, dict[str, Any]]:
        """The row of `sparsity` of each run's last point: mixture, mean over layers."""
        rows = self._of_curves("sparsity").filter(
            pl.col("layer").is_null(), pl.col("domain").is_null(), pl.col("metric") == METRIC
        )
        last = rows.sort("tokens", maintain_order=True).group_by("run").last().collect()
        return {row["run"]: row for row in last.iter_rows(named=True)}

    @cached_property
    def neurons(self) -> pl.DataFrame:
        """Frequencies at each run's last point, of the mixture: run, layer, frequency."""
        rows = self._of_curves("neurons").filter(pl.col("domain").is_null())
        last = rows.filter(pl.col("tokens") == pl.col("tokens").max().over("run"))
        return last.select("run", "layer", "frequency").sort("run", "layer").collect()

    @cached_property
    def dead(self) -> pl.DataFrame:
        """Share of dead neurons at each point, mean over layers: run, tokens, dead_ratio."""
        rows = self._of_curves("neurons").filter(pl.col("domain").is_null())
        means = rows.group_by("run", "tokens").agg(pl.col("dead_ratio").mean())
        return means.sort("run", "tokens").collect()

    def _of_curves(self, table: str) -> pl.LazyFrame:
        """The rows of a table that belong to the stage and tokens of the runs' curves."""
        points = [
            (r.run.id, r.curve.stage, t) for r in self.runs if r.curve for t in r.curve.tokens
        ]
        schema = {"run": pl.String, "stage": pl.String, "tokens": pl.Int64}
        wanted = pl.LazyFrame(points, schema=schema, orient="row")
        return self.store.scan(table).join(
            wanted, on=["run", "stage", "tokens"], how="semi", maintain_order="left"
        )


def spaced_by_ratio(counts: tuple[int, ...]) -> bool:
    """Whether increasing counts are nearer to equal ratios than to equal differences."""
    if len(counts) < 3:
        return False
    steps, ratios = np.diff(counts), np.diff(np.log(counts))
    return bool(np.std(ratios) / np.mean(ratios) < np.std(steps) / np.mean(steps))


def near_groups(values: list[float]) -> list[list[int]]:
    """Indices of the values, those near each other together, by rising value."""
    order = sorted(range(len(values)), key=values.__getitem__)
    groups: list[list[int]] = []
    for index in order:
        if groups and values[index] <= NEAR * values[groups[-1][0]]:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def group_of(run: Run, planned: list[Run]) -> str:
    """What tells a run from others of its activation, seeds aside; empty where nothing does."""
    peers = [each for each in planned if each.activation == run.activation]
    same_scale = [each for each in peers if each.scale == run.scale]
    ratio = f"width/depth {run.width_depth_ratio:.3g}"
    if len(set(map(_shape, peers))) == 1:
        return ""
    if len(same_scale) == len(peers):
        return ratio
    return run.scale if len(set(map(_shape, same_scale))) == 1 else f"{run.scale}, {ratio}"


def _shape(run: Run) -> tuple[int, int, int]:
    return run.d_h, run.layers, run.d_f


def _laws(store: StudyStore) -> dict[str, list[FittedLaw]]:
    found: dict[str, list[FittedLaw]] = {}
    for row in newest_fits(store).iter_rows(named=True):
        read = row | {name: read_json(row[name] or "null", f"fits.{name}") for name in JSON_COLUMNS}
        found.setdefault(row["run"], []).append(FittedLaw(row=read, evidence=weigh_again(row)))
    return found
