"""A training shard: one rank of a run's gang, which trains from where it starts to the run's end.

`training.start` makes it ready, `training.shard_actor` is its face to Ray.
"""

from __future__ import annotations

import resource
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from pathlib import Path

import torch
from torch import distributed as dist

from sparsing.actors.data.order import TrainingOrder
from sparsing.actors.data.prefetch import Batches
from sparsing.actors.data.prepared import PreparedData
from sparsing.actors.models.transformer import ModelConfig
from sparsing.actors.training.assignment import Assignment
from sparsing.actors.training.checkpoint_write import write_marker, write_shard
from sparsing.actors.training.engine import Engine
from sparsing.actors.training.evaluate import mean_loss
from sparsing.actors.training.fence import Fence
from sparsing.actors.training.heartbeat import HeartbeatRecorder
from sparsing.actors.training.learning_rate import learning_rate_share
from sparsing.actors.training.loss_guard import LossGuard
from sparsing.actors.training.replay import ReplayCheck
from sparsing.actors.training.report import ShardReport
from sparsing.study.plan.runs import Run
from sparsing.study.store.checkpoint_folders import (
    checkpoint_folder,
    recovery_folder,
    remove_recovery_points,
)
from sparsing.study.store.checkpoint_marker import Checkpoint
from sparsing.study.store.control.journal import Journal
from sparsing.study.store.study_store import StudyStore
from sparsing.study.store.writer import TableWriter
from sparsing.study.version import code_version

RECOVERY_POINTS = 2
"""Kept of a run; two, so that a damaged one costs no more than another interval."""
MOST_STALL = 0.01
"""Share of the time that saving recovery points may take, without a word."""
Files = dict[str, tuple[int, str]]
"""Size and digest by name."""


class Wish(IntEnum):
    """What shard 0 wants after a step."""

    GO_ON = 0
    SAVE = 1
    """A recovery point is due."""
    STOP = 2
    """Save one, and end."""


def stall_problem(save_seconds: float, recover_seconds: float) -> str | None:
    """What to say of recovery points that take more than MOST_STALL of the time; None if less."""
    share = save_seconds / (save_seconds + recover_seconds)
    if share <= MOST_STALL:
        return None
    better = save_seconds / MOST_STALL
    return (
        f"a recovery point takes {save_seconds:.1f} s to save, {share:.0%} of the time at "
        f"checkpoints.recover_every = {recover_seconds:g} s; {better:.0f}s would make it "
        f"{MOST_STALL:.0%}"
    )


def memory_bytes(device: torch.device) -> int:
    """Peak memory of this process: allocated on the device, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass(kw_only=True)
class TrainingShard:
    """One rank of a run's gang, ready to train; `training.start.build_shard` makes it.

    Use as a context manager: within it shard 0 has its writers.
    """

    assignment: Assignment
    rank: int
    store: StudyStore
    data: PreparedData
    order: TrainingOrder
    config: ModelConfig
    engine: Engine
    fence: Fence
    loss_guard: LossGuard
    replay: ReplayCheck
    recorder: HeartbeatRecorder
    report: ShardReport
    batches: Batches = field(init=False)
    _writers: dict[str, TableWriter] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)
    _saved: float = field(default_factory=time.monotonic)
    """When the newest checkpoint or recovery point was saved, or training began."""
    _stall_said: bool = False

    def __post_init__(self) -> None:
        self.batches = Batches(self.order)

    @property
    def run(self) -> Run:
        """The run that it trains."""
        return self.assignment.run

    def __enter__(self) -> TrainingShard:
        if self.rank == 0:
            for table in ("steps", "checkpoints"):
                writer = self.store.writer(table, run=self.run.id, attempt=self.assignment.attempt)
                self._writers[table] = self._stack.enter_context(writer)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    def train(self) -> None:
        """Train the run to its end; returns once every row and checkpoint is durable.

        Raises:
            RunFailure: loss or gradient norm is not finite, or the loss is a spike.
            FencedError: a newer attempt has been started.
        """
        with self:
            for step in range(self.report.start_step, self.run.steps):
                wish = self.train_step(step)
                self.recorder.stepped()
                planned = step + 1 in self.run.checkpoint_steps
                if planned or wish != Wish.GO_ON:
                    self.recorder.checkpointing()
                    self._checkpoint(step + 1) if planned else self._recovery_point(step + 1)
                    self._saved = time.monotonic()
                    self.recorder.checkpointed()
                if wish == Wish.STOP:
                    return
            if self.rank == 0:
                remove_recovery_points(self.store.path, self.run.id)

    def _wish(self) -> Wish:
        """What shard 0 wants after this step; of other shards nothing."""
        if self.rank:
            return Wish.GO_ON
        if self.recorder.stop_asked:
            return Wish.STOP
        due = time.monotonic() - self._saved >= self.store.study.checkpoints.recover_every
        return Wish.SAVE if due else Wish.GO_ON

    def compute(self, step: int) -> tuple[float, float, float, Wish]:
        """Optimizer step number `step`, from 0.

        Returns:
            Loss of the global batch, learning rate, gradient norm, and what shard 0 wants next.
        """
        run, world_size = self.run, self.assignment.world_size
        share = run.batch_sequences // world_size
        batch = self.assignment.batch_index(step + 1)
        first = batch * run.batch_sequences + self.rank * share
        sequences = self.batches.get(first, share, then=first + run.batch_sequences)
        peak = self.store.study.optimization.peak_learning_rate
        learning_rate = peak * learning_rate_share(run, step)
        loss, grad_norm = self.engine.step(sequences, learning_rate)
        wish = self._wish()
        if world_size > 1:
            # One collective for both; only shard 0's wish is not 0.
            both = torch.stack([loss, torch.full_like(loss, wish)])
            dist.all_reduce(both)
            loss, wish = both[0], Wish(int(both[1]))
        return float(loss) / world_size, learning_rate, grad_norm, wish

    def train_step(self, step: int) -> Wish:
        """Optimizer step number `step`, from 0, and its row in the store; what is wanted next.

        Raises:
            RunFailure: loss or gradient norm is not finite, or the loss is a spike.
            FencedError: a newer attempt has been started.
        """
        started = time.perf_counter()
        loss, learning_rate, grad_norm, wish = self.compute(step)
        self.loss_guard.check(step + 1, loss, grad_norm)
        if self.rank:
            return wish
        self.replay.check(step + 1, loss)
        self.recorder.replay_difference = self.replay.difference
        self.fence.check_at_times()
        seconds = time.perf_counter() - started
        row = {
            "step": step + 1,
            "tokens": (step + 1) * self.run.batch_tokens,
            "loss": loss,
            "learning_rate": learning_rate,
            "grad_norm": grad_norm,
            "tokens_per_second": self.run.batch_tokens / seconds,
            "step_seconds": seconds,
            "memory_bytes": memory_bytes(self.engine.device),
            "data_wait_seconds": self.batches.waited_seconds,
        }
        self._writers["steps"].append(step + 1, [row])
        return wish

    def _recovery_point(self, step: int) -> None:
        """Save a checkpoint that only restarts use, and keep the newest ones; collective."""
        started = time.perf_counter()
        folder = recovery_folder(self.store.path, self.run.id, step)
        point = self._commit(step, folder, self._write(folder), started)
        if point is None:
            return
        remove_recovery_points(self.store.path, self.run.id, keep=RECOVERY_POINTS)
        problem = stall_problem(point.save_seconds, self.store.study.checkpoints.recover_every)
        if problem and not self._stall_said:
            self._stall_said = True
            Journal(self.store.path).say(f"{self.run.id}: {problem}")

    def _write(self, folder: Path) -> Files:
        """Write this shard's part of a checkpoint; collective."""
        attempt, world_size = self.assignment.attempt, self.assignment.world_size
        return write_shard(self.engine, folder, attempt, self.rank, world_size)

    def _checkpoint(self, step: int) -> None:
        """Save a checkpoint and evaluate it; collective."""
        started = time.perf_counter()
        folder = checkpoint_folder(self.store.path, self.run.id, step)
        mine = self._write(folder)
        losses = self._validation_losses()
        checkpoint = self._commit(step, folder, mine, started)
        if checkpoint is None:
            return
        shared = {
            "step": step,
            "tokens": checkpoint.tokens,
            "path": str(folder.relative_to(self.store.path)),
            "bytes": checkpoint.bytes,
            "save_seconds": checkpoint.save_seconds,
        }
        rows = [shared | {"domain": d, "validation_loss": loss} for d, loss in losses.items()]
        self._writers["checkpoints"].append(step, rows)
        self._writers["checkpoints"].flush()

    def _commit(self, step: int, folder: Path, mine: Files, started: float) -> Checkpoint | None:
        """Make a checkpoint complete once all shards have written; collective.

        Returns:
            The checkpoint, on shard 0; None on the others.
        """
        written = [mine] * self.assignment.world_size
        if len(written) > 1:
            dist.all_gather_object(written, mine)
        if self.rank:
            return None
        # Rows up to a checkpoint are durable before it counts as complete: a restart from it
        # can then never leave a gap.
        self._writers["steps"].flush()
        files = {name: about for part in written for name, about in part.items()}
        checkpoint = Checkpoint(
            run=self.run.id,
            attempt=self.assignment.attempt,
            step=step,
            tokens=step * self.run.batch_tokens,
            files={name: size for name, (size, _) in files.items()},
            digests={name: digest for name, (_, digest) in files.items()},
            config=asdict(self.config),
            code_version=code_version(),
            save_seconds=time.perf_counter() - started,
        )
        self.fence.check()
        return write_marker(folder, checkpoint)

    def _validation_losses(self) -> dict[str | None, float]:
        """Dense loss on each domain's reporting half, and by mixture weight under None."""
        losses: dict[str | None, float] = {
            domain: mean_loss(
                self.engine.deepspeed,
                self.data.validation(domain, "report"),
                batch=self.engine.micro_sequences,
                device=self.engine.device,
                rank=self.rank,
                world_size=self.assignment.world_size,
            )
            for domain in self.data.domains
        }
        losses[None] = sum(w * losses[domain] for domain, w in self.data.weights.items())
        return losses
