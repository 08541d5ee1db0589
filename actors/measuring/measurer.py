"""The measurer: an actor beside the training that turns checkpoints into rows of the store.

Two kinds of measurement, told apart by the column `stage`: *live*, of one new checkpoint, with the
CETT value searched on the newest checkpoints so far; and *final*, of all checkpoints of an ended
run, with the run's one CETT value (stabilizing strategy, App. E). With the final one come the
Pareto curves, of the run's last checkpoint before the decay stage.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import ray
import torch

from sparsing.actors.data.prepare import open_prepared
from sparsing.actors.measuring.checkpoint_subject import subject_of
from sparsing.actors.measuring.measure import Measurement, measure_at
from sparsing.actors.measuring.pareto import pareto, pareto_rows
from sparsing.actors.measuring.rows import neuron_rows, sparsity_rows, vocabulary_rows
from sparsing.actors.measuring.search import Probe, Profile, search_cett
from sparsing.actors.models.device import pick_device
from sparsing.actors.models.sequences import of_half
from sparsing.actors.models.subject import Subject
from sparsing.study.plan.runs import Run
from sparsing.study.store.checkpoint_folders import (
    checkpoint_folder,
    complete_steps,
    prune_run,
    stabilizing_steps,
)
from sparsing.study.store.study_store import StudyStore


class Measurer:
    """Measures checkpoints of one study, one at a time."""

    def __init__(self, study_path: str, data_path: str) -> None:
        torch.set_num_threads(1)
        self.store = StudyStore.open(".", study_path)
        self.study = self.store.study
        self.data = open_prepared(Path(data_path))
        self.device = pick_device()
        self.choose, self.report = of_half(self.data, "choose"), of_half(self.data, "report")
        self._profiles: dict[tuple[str, int], Profile] = {}

    def node(self) -> str:
        """Id of the Ray node where it works."""
        return ray.get_runtime_context().get_node_id()

    def measure_live(self, run: Run, step: int, attempt: int) -> None:
        """Measure one checkpoint with the CETT value of the newest checkpoints up to it."""
        started = time.perf_counter()
        steps = [s for s in complete_steps(self.store.path, run.id) if s <= step]
        searched = stabilizing_steps(run, steps, self.study.measurement.stabilizing_checkpoints)
        probes = {s: self._probe(run, s) for s in {*searched, step}}
        found = search_cett([probes[s] for s in searched], self.study.measurement.p_percent)
        measured = measure_at(probes[step], self.report, found)
        self._keep_profiles(run, probes)
        self._write(run, step, attempt, "live", measured, started)

    def measure_final(self, run: Run, attempt: int) -> None:
        """Measure all checkpoints of an ended run with its one CETT value."""
        steps = complete_steps(self.store.path, run.id)
        searched = stabilizing_steps(run, steps, self.study.measurement.stabilizing_checkpoints)
        probes = {s: self._probe(run, s) for s in searched}
        found = search_cett(list(probes.values()), self.study.measurement.p_percent)
        if self.study.measurement.pareto:
            # First, for the last rows of `sparsity` make the run count as measured.
            self._write_pareto(run, searched[-1], attempt, probes[searched[-1]].subject)
        for step in steps:
            started = time.perf_counter()
            probe = probes.get(step) or self._probe(run, step)
            measured = measure_at(probe, self.report, found)
            self._write(run, step, attempt, "final", measured, started)
        self._keep_profiles(run, {})
        if self.study.resources.keep_checkpoints == "last":
            prune_run(self.store, run)

    def _probe(self, run: Run, step: int) -> Probe:
        subject = subject_of(checkpoint_folder(self.store.path, run.id, step), self.device)
        return Probe(subject, self.choose, self._profiles.get((run.id, step)))

    def _keep_profiles(self, run: Run, probes: dict[int, Probe]) -> None:
        """Keep what the next live measurement will ask again, and nothing else of the run."""
        for key in [key for key in self._profiles if key[0] == run.id]:
            del self._profiles[key]
        self._profiles |= {(run.id, step): probe.profile for step, probe in probes.items()}

    def _write_pareto(self, run: Run, step: int, attempt: int, subject: Subject) -> None:
        """Write the Pareto curves of one checkpoint, once."""
        with self.store.writer("pareto", run=run.id, attempt=attempt, stream="final") as writer:
            if writer.has(step):
                return
            shared = {"step": step, "tokens": step * run.batch_tokens}
            rows = pareto_rows(pareto(subject, self.choose, self.report))
            writer.append(step, [shared | row for row in rows])

    def _write(
        self, run: Run, step: int, attempt: int, stage: str, measured: Measurement, started: float
    ) -> None:
        """Write a measurement's rows; `sparsity` last, which makes the measurement complete."""
        shared = {"step": step, "tokens": step * run.batch_tokens, "stage": stage}
        seconds = time.perf_counter() - started
        rows = {
            "neurons": [shared | row for row in neuron_rows(measured)],
            "vocabulary": [shared | row for row in vocabulary_rows(measured)],
            "sparsity": [
                shared
                | {
                    "metric": measured.metric,
                    "p_percent": self.study.measurement.p_percent,
                    "cett": measured.cett,
                    "measure_seconds": seconds,
                }
                | row
                for row in sparsity_rows(measured)
            ],
        }
        with ExitStack() as stack:
            for table, content in rows.items():
                writer = stack.enter_context(
                    self.store.writer(table, run=run.id, attempt=attempt, stream=stage)
                )
                writer.append(step, content)
                writer.flush()
