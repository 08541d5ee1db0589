"""What a study's runs take on a kind of device: memory, step time, wall-clock, hours lost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sparsing.study.definition.model import Study
from sparsing.study.plan.rates import Rates, StepTime, step_time
from sparsing.study.plan.runs import CHECKPOINT_BYTES_PER_PARAMETER, Run, plan_runs
from sparsing.study.plan.work import Memory, memory_of, step_work

HOURS_BETWEEN_FAILURES = 50_000.0
"""GPU-hours: 419 unexpected stops in 54 days of 16,384 GPUs (Llama 3, Meta 2024, table 5)."""
RESTART_SECONDS = 180.0
MEASURED_TOKENS = 131_072
"""Of a measurement: the validation half that a CETT value is searched on."""
MEASURED_FORWARDS = 14
"""Forwards of a measurement: the search, and the reading at its end, live and final."""


@dataclass(frozen=True, kw_only=True)
class RunEstimate:
    """One run on one kind of device."""

    run: str
    shards: int
    micro_sequences: int
    """Sequences per forward that the definition gives."""
    fitting_sequences: int
    """The largest number that fits into memory; 0: not even one does."""
    memory: Memory
    fits: bool
    step: StepTime
    tokens_per_second_per_shard: float
    mfu: float | None
    """Share of the peak; None where the device's peak is not known."""
    train_seconds: float
    checkpoint_seconds: float
    checkpoint_bytes_per_second: float
    """Written on average while it trains."""
    shard_hours: float
    """Training and checkpoints, all shards together."""
    measuring_hours: float
    lost_hours: float
    """Expected to be lost to failures: steps done again, and restarts."""

    @property
    def seconds(self) -> float:
        """From its first step to its end."""
        return self.train_seconds + self.checkpoint_seconds


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A study on a number of devices of one kind."""

    device: str
    source: str
    devices: int
    prepare_seconds: float
    wall_seconds: float
    """From the start to the last run's end."""
    runs: tuple[RunEstimate, ...]

    def as_json(self) -> dict[str, Any]:
        """For JSON: parts and sums."""
        document = asdict(self)
        for row, run in zip(document["runs"], self.runs, strict=True):
            row["memory"]["total"], row["step"]["total"] = run.memory.total, run.step.total
        for name in ("shard_hours", "measuring_hours", "lost_hours"):
            document[name] = sum(getattr(run, name) for run in self.runs)
        return document


def estimate(study: Study, rates: Rates, devices: int | None = None, cores: int = 8) -> Estimate:
    """What the study takes on `devices` of these; None: as many as one run has shards."""
    runs = plan_runs(study)
    shards = study.resources.shards
    devices = max(devices or shards, 1)
    made = tuple(estimate_run(study, run, rates, min(shards, devices)) for run in runs)
    prepared = max(run.tokens for run in runs) / (rates.prepare_tokens * cores)
    slots = max(1, devices // shards)
    if study.resources.parallel_runs:
        slots = min(slots, study.resources.parallel_runs)
    return Estimate(
        device=rates.device,
        source=rates.source,
        devices=devices,
        prepare_seconds=prepared,
        wall_seconds=prepared + rates.start_seconds + _longest(made, slots),
        runs=made,
    )


def _longest(runs: tuple[RunEstimate, ...], slots: int) -> float:
    """When the last of the runs ends, the longest begun first, each in the slot that is free."""
    free = [0.0] * min(slots, len(runs))
    for seconds in sorted((run.seconds for run in runs), reverse=True):
        free[free.index(min(free))] += seconds
    return max(free)


def estimate_run(study: Study, run: Run, rates: Rates, shards: int) -> RunEstimate:
    """One run on `shards` devices."""
    vocabulary = study.data.tokenizer.entries
    share = max(1, run.batch_sequences // shards)
    asked = min(study.optimization.micro_batch_sequences, share)
    micro = max(size for size in range(1, asked + 1) if share % size == 0)

    def memory(sequences: int) -> Memory:
        return memory_of(
            run,
            vocabulary,
            shards=shards,
            micro=sequences,
            weight_bytes=rates.weight_bytes,
            process_bytes=rates.process_bytes,
        )

    sizes = [size for size in range(1, share + 1) if share % size == 0]
    fitting = [size for size in sizes if memory(size).total <= rates.memory_bytes]
    work = step_work(run, vocabulary, shards=shards, micro=micro, weight_bytes=rates.weight_bytes)
    step = step_time(work, rates)
    train = run.steps * step.total
    checkpoint = CHECKPOINT_BYTES_PER_PARAMETER * (run.parameters + vocabulary * run.d_h)
    saving = len(run.checkpoint_steps) * checkpoint / rates.checkpoint_bytes
    hours = (train + saving) * shards / 3600
    forward = (work.matmul_flops / rates.matmul_flops) / 3 / (run.batch_tokens / shards)
    between = train / max(1, len(run.checkpoint_steps))
    failures = hours / HOURS_BETWEEN_FAILURES
    return RunEstimate(
        run=run.id,
        shards=shards,
        micro_sequences=micro,
        fitting_sequences=max(fitting, default=0),
        memory=memory(micro),
        fits=memory(micro).total <= rates.memory_bytes,
        step=step,
        tokens_per_second_per_shard=run.batch_tokens / shards / step.total,
        mfu=None if rates.peak_flops is None else work.model_flops / step.total / rates.peak_flops,
        train_seconds=train,
        checkpoint_seconds=saving,
        checkpoint_bytes_per_second=len(run.checkpoint_steps) * checkpoint / (train + saving),
        shard_hours=hours,
        measuring_hours=len(run.checkpoint_steps)
        * MEASURED_FORWARDS
        * MEASURED_TOKENS
        * forward
        / 3600,
        lost_hours=failures * shards * (between / 2 + RESTART_SECONDS) / 3600,
    )
