"""The measurer: an actor beside the training that turns checkpoints into rows of the store.

Two kinds of measurement, told apart by the column `stage`: *live*, of one new checkpoint, with the
CETT value searched on the newest checkpoints so far; and *final*, of all checkpoints of an ended
run, with the run's one CETT value (stabilizing strategy, App. E).
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from actors.checkpoints import checkpoint_folder, complete_steps, load_model
from actors.data.prepare import open_prepared
from actors.engine import pick_device
from actors.measure import (
    DEAD_FREQUENCY,
    CheckpointProbe,
    DenseProfile,
    DomainActivity,
    Measurement,
    measure_at,
    search_cett,
)
from study.plan import Run
from study.store import StudyStore

METRIC = "cett_ppl"


def stabilizing_steps(run: Run, steps: list[int], count: int) -> list[int]:
    """The last `count` of these checkpoints before the decay stage (all where none is before)."""
    before_decay = [s for s in steps if s <= run.steps - run.decay_steps]
    return (before_decay or steps)[-count:]


class Measurer:
    """Measures checkpoints of one study, one at a time."""

    def __init__(self, study_path: str, data_path: str) -> None:
        torch.set_num_threads(1)
        self.store = StudyStore.open(".", study_path)
        self.study = self.store.study
        self.data = open_prepared(Path(data_path))
        self.device = pick_device()
        self._profiles: dict[tuple[str, int], DenseProfile] = {}

    def measure_live(self, run: Run, step: int, attempt: int) -> None:
        """Measure one checkpoint with the CETT value of the newest checkpoints up to it."""
        started = time.perf_counter()
        steps = [s for s in complete_steps(self.store.path, run.id) if s <= step]
        searched = stabilizing_steps(run, steps, self.study.measurement.stabilizing_checkpoints)
        probes = {s: self._probe(run, s) for s in {*searched, step}}
        cett = search_cett(
            [probes[s] for s in searched], self.study.measurement.p_percent, self._last_cett(run)
        )
        self._write(run, step, attempt, "live", measure_at(probes[step], cett), started)

    def measure_final(self, run: Run, attempt: int) -> None:
        """Measure all checkpoints of an ended run with its one CETT value."""
        steps = complete_steps(self.store.path, run.id)
        searched = stabilizing_steps(run, steps, self.study.measurement.stabilizing_checkpoints)
        probes = {s: self._probe(run, s) for s in searched}
        cett = search_cett(probes.values(), self.study.measurement.p_percent, self._last_cett(run))
        for step in steps:
            started = time.perf_counter()
            probe = probes.get(step) or self._probe(run, step)
            self._write(run, step, attempt, "final", measure_at(probe, cett), started)

    def _probe(self, run: Run, step: int) -> CheckpointProbe:
        model = load_model(checkpoint_folder(self.store.path, run.id, step))
        probe = CheckpointProbe(model, self.data, self.device, self._profiles.get((run.id, step)))
        self._profiles[run.id, step] = probe.profile
        return probe

    def _last_cett(self, run: Run) -> float | None:
        """The newest CETT value of the run in the store: a good first guess."""
        rows = self.store.scan("sparsity", run=run.id).sort("written_at").select("cett").tail(1)
        found = rows.collect()
        return found.item() if len(found) else None

    def _write(
        self, run: Run, step: int, attempt: int, stage: str, measured: Measurement, started: float
    ) -> None:
        """Write a measurement's rows; `sparsity` last, which makes the measurement complete."""
        shared = {"step": step, "tokens": step * run.batch_tokens, "stage": stage}
        seconds = time.perf_counter() - started
        rows = {
            "neurons": [shared | row for row in neuron_rows(measured, self.data.weights)],
            "vocabulary": [shared | row for row in vocabulary_rows(measured)],
            "sparsity": [
                shared
                | {
                    "metric": METRIC,
                    "p_percent": self.study.measurement.p_percent,
                    "cett": measured.cett,
                    "measure_seconds": seconds,
                }
                | row
                for row in sparsity_rows(measured, self.data.weights)
            ],
        }
        with ExitStack() as stack:
            for table, content in rows.items():
                writer = stack.enter_context(
                    self.store.writer(table, run=run.id, attempt=attempt, stream=stage)
                )
                writer.append(step, content)
                writer.flush()


def with_mixture(
    measured: Measurement, weights: dict[str, float]
) -> dict[str | None, DomainActivity]:
    """The domains, and under None their mean by mixture weight."""
    domains, parts = measured.domains, list(measured.domains.items())
    mixture = DomainActivity(
        tokens=sum(part.tokens for part in domains.values()),
        frequency=[
            np.sum([weights[name] * part.frequency[layer] for name, part in parts], axis=0)
            for layer in range(len(measured.thresholds))
        ],
        dense_loss=sum(weights[name] * part.dense_loss for name, part in parts),
        sparse_loss=sum(weights[name] * part.sparse_loss for name, part in parts),
    )
    named: list[tuple[str | None, DomainActivity]] = [*domains.items(), (None, mixture)]
    return dict(named)


def sparsity_rows(measured: Measurement, weights: dict[str, float]) -> list[dict]:
    """Rows for each domain and layer; layer null = the mean, which carries the losses."""
    rows = []
    for domain, part in with_mixture(measured, weights).items():
        ratios = part.activation_ratios
        shared = {"domain": domain, "measured_tokens": part.tokens}
        rows.append(
            shared
            | {
                "activation_ratio": sum(ratios) / len(ratios),
                "dense_loss": part.dense_loss,
                "sparse_loss": part.sparse_loss,
                "ppl_rise_percent": 100 * math.expm1(part.sparse_loss - part.dense_loss),
            }
        )
        rows += [
            shared | {"layer": layer, "activation_ratio": ratio, "threshold": threshold}
            for layer, (ratio, threshold) in enumerate(
                zip(ratios, measured.thresholds, strict=True)
            )
        ]
    return rows


def neuron_rows(measured: Measurement, weights: dict[str, float]) -> list[dict]:
    """One row for each domain and layer: every neuron's frequency, and the dead ones' share."""
    return [
        {
            "domain": domain,
            "layer": layer,
            "frequency": frequency.astype("float32"),
            "dead_ratio": float((frequency < DEAD_FREQUENCY).mean()),
        }
        for domain, part in with_mixture(measured, weights).items()
        for layer, frequency in enumerate(part.frequency)
    ]


def vocabulary_rows(measured: Measurement) -> list[dict]:
    """One row for each token id that occurs in the reporting halves."""
    return [
        {"token_id": token, "activation_ratio": ratio, "count": count}
        for token, (ratio, count) in measured.vocabulary.items()
    ]
