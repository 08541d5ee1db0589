"""A training shard: one rank of a run's gang, which trains from where it starts to the run's end.

`training.start` makes it ready, `training.shard_actor` is its face to Ray.
"""

from __future__ import annotations

import resource
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field

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
from sparsing.study.store.checkpoint_folders import checkpoint_folder
from sparsing.study.store.checkpoint_marker import Checkpoint
from sparsing.study.store.study_store import StudyStore
from sparsing.study.store.writer import TableWriter
from sparsing.study.version import code_version


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
                self.train_step(step)
                self.recorder.stepped()
                if step + 1 in self.run.checkpoint_steps:
                    self.recorder.checkpointing()
                    self._checkpoint(step + 1)
                    self.recorder.checkpointed()

    def compute(self, step: int) -> tuple[float, float, float]:
        """Optimizer step number `step`, from 0: (loss of the global batch, lr, gradient norm)."""
        run, world_size = self.run, self.assignment.world_size
        share = run.batch_sequences // world_size
        batch = self.assignment.batch_index(step + 1)
        first = batch * run.batch_sequences + self.rank * share
        sequences = self.batches.get(first, share, then=first + run.batch_sequences)
        peak = self.store.study.optimization.peak_learning_rate
        learning_rate = peak * learning_rate_share(run, step)
        loss, grad_norm = self.engine.step(sequences, learning_rate)
        if world_size > 1:
            dist.all_reduce(loss)
        return float(loss) / world_size, learning_rate, grad_norm

    def train_step(self, step: int) -> None:
        """Optimizer step number `step`, from 0, and its row in the store.

        Raises:
            RunFailure: loss or gradient norm is not finite, or the loss is a spike.
            FencedError: a newer attempt has been started.
        """
        started = time.perf_counter()
        loss, learning_rate, grad_norm = self.compute(step)
        self.loss_guard.check(step + 1, loss, grad_norm)
        if self.rank:
            return
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

    def _checkpoint(self, step: int) -> None:
        """Save a checkpoint and evaluate it; collective."""
        started = time.perf_counter()
        attempt, world_size = self.assignment.attempt, self.assignment.world_size
        folder = checkpoint_folder(self.store.path, self.run.id, step)
        written = [write_shard(self.engine, folder, attempt, self.rank, world_size)] * world_size
        losses = self._validation_losses()
        if world_size > 1:
            dist.all_gather_object(written, written[0])
        if self.rank:
            return
        # Rows up to a checkpoint are durable before it counts as complete: a restart from it
        # can then never leave a gap.
        self._writers["steps"].flush()
        files = {name: about for part in written for name, about in part.items()}
        checkpoint = Checkpoint(
            run=self.run.id,
            attempt=attempt,
            step=step,
            tokens=step * self.run.batch_tokens,
            files={name: size for name, (size, _) in files.items()},
            digests={name: digest for name, (_, digest) in files.items()},
            config=asdict(self.config),
            code_version=code_version(),
            save_seconds=time.perf_counter() - started,
        )
        self.fence.check()
        checkpoint = write_marker(folder, checkpoint)
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
