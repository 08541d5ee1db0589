"""A training shard: one rank of a run's gang, from its newest complete checkpoint to the end.

The class is plain; `orchestration.gang` makes Ray actors of it. A shard talks to the store and to
its gang's process group, never to other actors.
"""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import ray
import torch
from torch import distributed as dist

from sparsing.actors.data.order import TrainingOrder
from sparsing.actors.data.prepare import open_prepared
from sparsing.actors.models.transformer import ModelConfig, Transformer
from sparsing.actors.orchestration.policy import as_failure, batch_index
from sparsing.actors.orchestration.watchdog import Beat, Pulse
from sparsing.actors.training.assignment import Assignment
from sparsing.actors.training.checkpoints import (
    Checkpoint,
    read_tensors,
    shard_files,
    write_marker,
    write_shard,
)
from sparsing.actors.training.engine import Engine, join_gang, limit_collectives
from sparsing.actors.training.evaluate import mean_loss
from sparsing.actors.training.fence import Fence
from sparsing.actors.training.learning_rate import learning_rate_share
from sparsing.actors.training.loss_guard import LossGuard
from sparsing.study.definition.model import Study
from sparsing.study.errors import FencedError
from sparsing.study.plan.runs import Run
from sparsing.study.store.checkpoint_folders import checkpoint_folder, complete_steps
from sparsing.study.store.study_store import StudyStore
from sparsing.study.store.writer import TableWriter
from sparsing.study.version import code_version


def model_config(study: Study, run: Run, vocabulary_size: int) -> ModelConfig:
    """The run's model; the vocabulary is padded to a multiple of 64 for fast products."""
    return ModelConfig(
        d_h=run.d_h,
        layers=run.layers,
        d_f=run.d_f,
        heads=run.heads,
        activation=run.activation,
        vocabulary_size=-(-vocabulary_size // 64) * 64,
        **study.mup.model_dump(),
    )


def memory_bytes(device: torch.device) -> int:
    """Peak memory of this process: allocated on the device, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class TrainingShard:
    """One rank of a run's gang."""

    def __init__(self, assignment: Assignment, rank: int) -> None:
        self.assignment = assignment
        self.rank = rank
        self.run = assignment.run
        self.pulse = Pulse()

    def meeting_point(self) -> tuple[str, int]:
        """Address of this node and a free port on it, where the gang meets; asked of rank 0."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def beat(self) -> Beat:
        """What the pulse says; answered by another thread while `train` works."""
        return self.pulse.beat()

    def train(self, address: str, port: int) -> None:
        """Train the run to its end; returns once every row and checkpoint is durable.

        Raises:
            RunFailure: whatever went wrong here, with its kind.
            FencedError: a newer attempt has been started.
        """
        try:
            self._train(address, port)
        except FencedError:
            raise
        except Exception as error:
            raise as_failure(error) from error

    def _train(self, address: str, port: int) -> None:
        self.set_up(address, port)
        start = self.resume()
        with self.writing(start):
            for step in range(start, self.run.steps):
                self.train_step(step)
                self.pulse.stepped()
                if step + 1 in self.run.checkpoint_steps:
                    self.pulse.checkpointing()
                    self._checkpoint(step + 1)
                    self.pulse.checkpointed()

    @contextmanager
    def writing(self, start: int) -> Iterator[None]:
        """Within it shard 0 has its writers, and the store knows that this attempt trains."""
        self.writers: dict[str, TableWriter] = {}
        with ExitStack() as stack:
            if self.rank == 0:
                self._record_state(start)
                for table in ("steps", "checkpoints"):
                    writer = self.store.writer(
                        table, run=self.run.id, attempt=self.assignment.attempt
                    )
                    self.writers[table] = stack.enter_context(writer)
            yield

    def set_up(self, address: str, port: int) -> None:
        """Join the gang, open store and data."""
        assignment = self.assignment
        self.store = StudyStore.open(".", assignment.study_path)
        self.study = self.store.study
        if not torch.cuda.is_available():
            torch.set_num_threads(self.study.resources.threads_per_shard)
        join_gang(self.rank, assignment.world_size, address, port, assignment.gang_timeout_seconds)
        self.data = open_prepared(Path(assignment.data_path))
        self.order = TrainingOrder(self.data, self.run.seed)
        self.config = model_config(self.study, self.run, self.data.vocabulary_size)
        self.fence = Fence(self.store, self.run.id, assignment.attempt, assignment.token)

    def resume(self) -> int:
        """Make the engine, from the newest complete checkpoint where there is one.

        Returns:
            The number of optimizer steps done.
        """
        done = complete_steps(self.store.path, self.run.id)
        model = Transformer(self.config)
        state = None
        if done:
            state = read_tensors(checkpoint_folder(self.store.path, self.run.id, done[-1]))
            # bf16 parameters are cast from these; the float32 masters follow in load_state.
            model.load_state_dict(
                {k.removeprefix("weight/"): t for k, t in state.items() if k.startswith("weight/")}
            )
        else:
            model.initialize(self.run.seed)
        self.engine = Engine(model, self.study, self.run, self.assignment.world_size)
        limit_collectives(self.assignment.gang_timeout_seconds)
        if state is not None:
            self.engine.load_state(state, done[-1])
        start = done[-1] if done else 0
        self.loss_guard = LossGuard(self.store, self.run, start)
        return start

    def compute(self, step: int) -> tuple[float, float, float]:
        """Optimizer step number `step`, from 0: (loss of the global batch, lr, gradient norm)."""
        run, world_size = self.run, self.assignment.world_size
        share = run.batch_sequences // world_size
        batch = batch_index(step + 1, run.steps, self.assignment.replaced_steps)
        first = batch * run.batch_sequences + self.rank * share
        sequences = torch.from_numpy(self.order.sequences(first, share))
        learning_rate = self.study.optimization.peak_learning_rate * learning_rate_share(run, step)
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
        }
        self.writers["steps"].append(step + 1, [row])

    def _checkpoint(self, step: int) -> None:
        """Save a checkpoint and evaluate it; collective."""
        started = time.perf_counter()
        attempt, world_size = self.assignment.attempt, self.assignment.world_size
        folder = checkpoint_folder(self.store.path, self.run.id, step)
        write_shard(self.engine, folder, attempt, self.rank, world_size)
        losses = self._validation_losses()
        self._barrier()
        if self.rank:
            return
        # Rows up to a checkpoint are durable before it counts as complete: a restart from it
        # can then never leave a gap.
        self.writers["steps"].flush()
        checkpoint = Checkpoint(
            run=self.run.id,
            attempt=attempt,
            step=step,
            tokens=step * self.run.batch_tokens,
            files=shard_files(folder, attempt, world_size),
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
        self.writers["checkpoints"].append(step, rows)
        self.writers["checkpoints"].flush()

    def _barrier(self) -> None:
        if self.assignment.world_size > 1:
            dist.barrier()

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

    def _record_state(self, start: int) -> None:
        """Tell the store that this attempt trains, on what, and from where."""
        engine = self.engine
        name = "CPU" if engine.device.type == "cpu" else torch.cuda.get_device_name(engine.device)
        row = {
            "step": start,
            "tokens": start * self.run.batch_tokens,
            "state": "training",
            "world_size": self.assignment.world_size,
            "device": f"{name}, {str(engine.dtype)[6:]}, ZeRO {engine.zero_stage}",
            "reason": f"from step {start}" if start else None,
        }
        attempt = self.assignment.attempt
        with self.store.writer("runs", run=self.run.id, attempt=attempt, stream="shard") as writer:
            writer.append(attempt, [row])
