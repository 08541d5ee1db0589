"""From a definition to its runs: shapes, steps, checkpoints, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sparsing.study.definition.checks import find_problems
from sparsing.study.definition.messages import path_text
from sparsing.study.definition.model import Study
from sparsing.study.definition.points import (
    Point,
    asked_tokens,
    batch_sequences,
    checkpoint_steps,
    phase_steps,
    points,
)
from sparsing.study.errors import DefinitionError, NotFoundError
from sparsing.study.plan.accelerators import ACCELERATORS

ACCELERATOR = "A800"
PEAK_FLOPS = ACCELERATORS[ACCELERATOR].peak_flops
CHECKPOINT_BYTES_PER_PARAMETER = 12
"""float32 weights and AdamW's two moments."""
STAGES = 2
"""A checkpoint is measured live, and again with the run's final CETT value."""

# Of an ended run, whose streams are one Parquet file each: bytes of a row in a quickstart's store,
# and those of a file's footer, which grow with the columns. Bytes of a neuron at d_f 1920.
STEPS_ROW_BYTES = 37
CHECKPOINTS_ROW_BYTES = 85
SPARSITY_ROW_BYTES = 48
NEURONS_ROW_BYTES = 15
NEURON_BYTES = 2.45
VOCABULARY_ROW_BYTES = 9.5
FITS_ROW_BYTES = 1420
PARETO_ROW_BYTES = 52
FOOTERS_BYTES = 60_000
"""Of all streams of a run: two of runs, sparsity, neurons and vocabulary, one of the others."""
PARETO_POINTS = 25
"""Of one run, at most: three ways at eight ratios each, and straightforward ReLU."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One model to train: everything about it that is not shared by the whole study."""

    id: str
    """Readable and unique in the study: `relu-0.1B-wd48-s0`."""
    activation: str
    scale: str
    """As written in the axes, or `d32x4` for an explicit shape."""
    seed: int
    d_h: int
    layers: int
    d_f: int
    heads: int
    parameters: int
    """Non-embedding parameters."""
    batch_sequences: int
    """Sequences of the global batch."""
    sequence_tokens: int
    steps: int
    warmup_steps: int
    decay_steps: int
    checkpoint_steps: tuple[int, ...]
    """Increasing; the last one is `steps`."""

    @property
    def width_depth_ratio(self) -> float:
        """d_h / layers."""
        return self.d_h / self.layers

    @property
    def batch_tokens(self) -> int:
        """Tokens of the global batch."""
        return self.batch_sequences * self.sequence_tokens

    @property
    def tokens(self) -> int:
        """Training tokens of the whole run."""
        return self.steps * self.batch_tokens


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one run costs."""

    run: Run
    embedding_parameters: int
    """The tied embedding: vocabulary x d_h."""
    flops: float
    gpu_hours: float
    checkpoint_bytes: int
    """All checkpoints of the run."""
    table_bytes: int
    """Estimate of its rows in all tables."""


TOTALS = ("tokens", "flops", "gpu_hours", "checkpoint_bytes", "table_bytes")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study's runs, and what they cost on A800 GPUs at a stated utilization."""

    study_id: str
    utilization: float
    costs: tuple[Cost, ...]

    @property
    def total(self) -> dict[str, float]:
        """Sums over the runs: tokens, flops, gpu_hours, checkpoint_bytes, table_bytes."""
        rows = [cost_row(cost) for cost in self.costs]
        return {key: sum(row[key] for row in rows) for key in TOTALS}

    def as_json(self) -> dict[str, Any]:
        """One JSON document: study, accelerator, runs, total."""
        return {
            "study": self.study_id,
            "accelerator": ACCELERATOR,
            "peak_flops": PEAK_FLOPS,
            "utilization": self.utilization,
            "runs": [cost_row(cost) for cost in self.costs],
            "total": {"runs": len(self.costs), **self.total},
        }


def cost_row(cost: Cost) -> dict[str, Any]:
    """A run and its costs as one flat row."""
    row = asdict(cost)
    run = row.pop("run")
    run["checkpoint_steps"] = list(cost.run.checkpoint_steps)
    derived = {"batch_tokens": cost.run.batch_tokens, "tokens": cost.run.tokens}
    return {**run, **derived, **row}


def plan(study: Study, *, utilization: float = 0.4) -> Plan:
    """The study's runs with their costs; `utilization` is the reached share of the peak, in (0, 1].

    Raises DefinitionError where the definition is impossible.
    """
    if not 0 < utilization <= 1:
        raise DefinitionError(f"utilization = {utilization:g}: a share over 0, at most 1")
    costs = tuple(_cost(study, run, utilization) for run in plan_runs(study))
    return Plan(study_id=study.study_id, utilization=utilization, costs=costs)


def find_run(runs: Sequence[Run], run: str, study_id: str) -> Run:
    """The run of an id; NotFoundError, which lists the study's runs, where there is none."""
    for each in runs:
        if each.id == run:
            return each
    listed = ", ".join(each.id for each in runs)
    raise NotFoundError(
        f"study {study_id} has no run '{run}'; runs: {listed}",
        code="unknown_run",
        run=run,
        known=[each.id for each in runs],
    )


def plan_runs(study: Study) -> list[Run]:
    """The study's runs in definition order; the same list for the same definition.

    Raises DefinitionError, with all problems at once, where the definition is impossible.
    """
    if problems := find_problems(study):
        lines = [f"{path_text(p.path) or study.name}: {p.message}" for p in problems]
        raise DefinitionError("\n".join(lines))
    return [_run(study, point) for point in points(study)]


def _run(study: Study, point: Point) -> Run:
    shape = point.shape()
    sequences = batch_sequences(study, point)
    batch_tokens = sequences * study.data.sequence_tokens
    steps = round(asked_tokens(study, shape.parameters) / batch_tokens)
    warmup_steps, decay_steps = phase_steps(study, steps, batch_tokens)
    return Run(
        id=point.run_id(),
        activation=point.activation,
        scale=point.label,
        seed=point.seed,
        d_h=shape.d_h,
        layers=shape.layers,
        d_f=shape.d_f,
        heads=shape.heads,
        parameters=shape.parameters,
        batch_sequences=sequences,
        sequence_tokens=study.data.sequence_tokens,
        steps=steps,
        warmup_steps=warmup_steps,
        decay_steps=decay_steps,
        checkpoint_steps=tuple(checkpoint_steps(study.checkpoints, steps, batch_tokens)),
    )


def training_flops(run: Run, vocabulary: int) -> float:
    """Floating-point operations of a run's training, forward and backward.

    (6 N + 6 V d_h + 6 L d_h T) D: each parameter N of the layers, and each of the V d_h of the
    output head, multiplies and adds once forward and twice backward for every one of D tokens; in
    each of L layers causal attention scores and mixes T / 2 tokens of a sequence on average, with
    2 d_h multiply-adds for each.
    """
    attention = run.layers * run.d_h * run.sequence_tokens
    return 6.0 * (run.parameters + vocabulary * run.d_h + attention) * run.tokens


def _cost(study: Study, run: Run, utilization: float) -> Cost:
    vocabulary = study.data.tokenizer.entries
    embedding_parameters = vocabulary * run.d_h
    flops = training_flops(run, vocabulary)
    checkpoint = CHECKPOINT_BYTES_PER_PARAMETER * (run.parameters + embedding_parameters)
    return Cost(
        run=run,
        embedding_parameters=embedding_parameters,
        flops=flops,
        gpu_hours=flops / (PEAK_FLOPS * utilization) / 3600,
        checkpoint_bytes=checkpoint * len(run.checkpoint_steps),
        table_bytes=_table_bytes(study, run),
    )


def _table_bytes(study: Study, run: Run) -> int:
    """Rows of a run times bytes per row, and the footers; as if every token were in vocabulary."""
    places = len(study.data.domains) + 1  # each domain, and the mixture
    measurement = (
        places * (run.layers + 1) * SPARSITY_ROW_BYTES
        + places * run.layers * (NEURONS_ROW_BYTES + NEURON_BYTES * run.d_f)
        + study.data.tokenizer.entries * VOCABULARY_ROW_BYTES
    )
    checkpoint = places * CHECKPOINTS_ROW_BYTES + STAGES * measurement + FITS_ROW_BYTES
    pareto = places * PARETO_POINTS * PARETO_ROW_BYTES if study.measurement.pareto else 0
    rows = run.steps * STEPS_ROW_BYTES + len(run.checkpoint_steps) * checkpoint + pareto
    return round(rows + FOOTERS_BYTES)
