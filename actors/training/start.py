"""How a shard starts: joins its gang, opens store and data, loads the newest sound checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import distributed as dist

from sparsing.actors.data.order import TrainingOrder
from sparsing.actors.data.prepare import open_prepared
from sparsing.actors.models.checkpoint_read import WEIGHT, CheckpointTensors
from sparsing.actors.models.transformer import ModelConfig, Transformer
from sparsing.actors.training.assignment import Assignment
from sparsing.actors.training.checkpoint_write import clear_incomplete
from sparsing.actors.training.engine import Engine, join_gang, limit_collectives
from sparsing.actors.training.fence import Fence
from sparsing.actors.training.heartbeat import HeartbeatRecorder
from sparsing.actors.training.loss_guard import LossGuard
from sparsing.actors.training.replay import ReplayCheck
from sparsing.actors.training.report import ShardReport
from sparsing.actors.training.shard import TrainingShard
from sparsing.study.definition.model import Study
from sparsing.study.errors import NotFoundError
from sparsing.study.plan.runs import Run
from sparsing.study.store.checkpoint_folders import RECOVERY, set_aside, starting_points
from sparsing.study.store.checkpoint_marker import (
    DamagedCheckpointError,
    read_checkpoint,
    verify_files,
)
from sparsing.study.store.study_store import StudyStore


def build_shard(
    assignment: Assignment, rank: int, address: str, port: int, recorder: HeartbeatRecorder
) -> TrainingShard:
    """A shard that is ready to train; collective over the gang.

    Args:
        assignment: what the gang is told.
        rank: of this shard.
        address, port: the gang's rendezvous.
        recorder: takes note of the shard's steps from now on.

    Raises:
        SparsingError: data, definition or device cannot be used.
        FencedError: a newer attempt has been started.
    """
    store = StudyStore.open(".", assignment.study_path)
    study, run, world_size = store.study, assignment.run, assignment.world_size
    if not torch.cuda.is_available():
        torch.set_num_threads(study.resources.threads_per_shard)
    join_gang(rank, world_size, address, port, assignment.gang_timeout_seconds)
    data = open_prepared(Path(assignment.data_path))
    config = model_config(study, run, data.vocabulary_size)
    fence = Fence(store, run.id, assignment.attempt, assignment.token)
    start, source, damaged = newest_sound(store, assignment, rank, fence)
    model = Transformer(config)
    tensors = None
    if source:
        tensors = CheckpointTensors(source)
        # bf16 parameters are cast from these; the float32 masters follow in load_state.
        for name, parameter in model.named_parameters():
            parameter.data.copy_(tensors[f"{WEIGHT}{name}"])
    else:
        model.initialize(run.seed)
    engine = Engine(model, study, run, world_size)
    limit_collectives(assignment.gang_timeout_seconds)
    if tensors is not None:
        engine.load_state(tensors, start)
    return TrainingShard(
        assignment=assignment,
        rank=rank,
        store=store,
        data=data,
        order=TrainingOrder(data, run.seed),
        config=config,
        engine=engine,
        fence=fence,
        loss_guard=LossGuard(store, run, start),
        replay=ReplayCheck(store, run, start, engine.description, world_size),
        recorder=recorder,
        report=ShardReport(start_step=start, device=engine.description, damaged=damaged),
    )


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


def newest_sound(
    store: StudyStore, assignment: Assignment, rank: int, fence: Fence
) -> tuple[int, Path | None, tuple[str, ...]]:
    """Step and folder of the newest sound checkpoint or recovery point; what is said of newer ones.

    Each shard verifies its part of the files; damaged checkpoints are set aside. Without a sound
    one the step is 0.
    """
    run, world_size = assignment.run.id, assignment.world_size
    if rank == 0:
        fence.check()
        for kind in ("checkpoints", RECOVERY):
            clear_incomplete(store.path / kind / run, assignment.attempt)
    # What rank 0 sees: an orphan may complete one more at this moment.
    points = _all(starting_points(store.path, run), world_size)[0]
    damaged: list[str] = []
    for step, folder in reversed(points.items()):
        problems = _all(_problem(folder, rank, world_size), world_size)
        found = [problem for problem in problems if problem]
        if not found:
            return step, folder, tuple(damaged)
        where = _all(set_aside(folder).name if rank == 0 else "", world_size)[0]
        damaged.append(f"checkpoint of step {step} is damaged, kept as {where}: {found[0]}")
    return 0, None, tuple(damaged)


def _problem(folder: Path, rank: int, world_size: int) -> str | None:
    """What is damaged in this shard's part of a checkpoint."""
    try:
        checkpoint = read_checkpoint(folder)
        verify_files(folder, checkpoint, list(checkpoint.files)[rank::world_size])
    except DamagedCheckpointError as error:
        return error.problem
    except NotFoundError as error:
        return str(error)
    return None


def _all(value: object, world_size: int) -> list:
    """The values of all shards, by rank; collective."""
    found: list = [value] * world_size
    if world_size > 1:
        dist.all_gather_object(found, value)
    return found
