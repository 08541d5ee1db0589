"""One rank of a gang without Ray: trains a few steps at each ZeRO stage and prints losses as JSON.

python engine_gang.py RANK WORLD_SIZE PORT FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import distributed as dist

from sparsing.actors.models.checkpoint_read import model_weights, read_tensors
from sparsing.actors.models.transformer import Transformer
from sparsing.actors.training.checkpoint_write import write_marker, write_shard
from sparsing.actors.training.engine import Engine, join_gang
from sparsing.actors.training.start import model_config
from sparsing.study.definition.load import load_study
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.checkpoint_marker import Checkpoint

STEPS, RESUME_AT = 6, 3


def batch(step: int, sequences: int, tokens: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randint(256, (sequences, tokens + 1), generator=generator)


def main(rank: int, world_size: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    join_gang(rank, world_size, "127.0.0.1", port, timeout_seconds=60)
    study = load_study("quickstart")
    run = plan_runs(study)[0]
    share = run.batch_sequences // world_size
    config = model_config(study, run, 257)

    def engine_at(stage: int, model: Transformer) -> Engine:
        optimization = study.optimization.model_copy(update={"zero_stage": stage})
        return Engine(
            model, study.model_copy(update={"optimization": optimization}), run, world_size
        )

    def train(engine: Engine, first: int) -> list[float]:
        losses = []
        for step in range(first, STEPS):
            mine = batch(step, run.batch_sequences, 64)[rank * share : (rank + 1) * share]
            loss, _ = engine.step(mine, learning_rate=0.005)
            dist.all_reduce(loss)
            losses.append(float(loss) / world_size)
            if step + 1 == RESUME_AT and first == 0:
                save(engine)
        return losses

    def save(engine: Engine) -> None:
        target = folder / f"world{world_size}-zero{engine.zero_stage}"
        written: list = [None] * world_size
        mine = write_shard(engine, target, 1, rank, world_size)
        dist.all_gather_object(written, mine)
        files = {name: about for part in written for name, about in part.items()}
        if rank == 0:
            write_marker(
                target,
                Checkpoint(
                    run=run.id,
                    attempt=1,
                    step=RESUME_AT,
                    tokens=0,
                    config=vars(config),
                    files={name: size for name, (size, _) in files.items()},
                    digests={name: digest for name, (_, digest) in files.items()},
                    code_version="test",
                    save_seconds=0,
                ),
            )
        dist.barrier()

    losses = {}
    for stage in range(4):
        losses[f"zero{stage}"] = train(engine_at(stage, Transformer(config).initialize(0)), 0)
    for source in sorted(folder.glob("world*")):
        state = read_tensors(source)
        for stage in range(4):
            model = Transformer(config)
            model.load_state_dict(model_weights(state))
            engine = engine_at(stage, model)
            engine.load_state(state, RESUME_AT)
            losses[f"{source.name}->zero{stage}"] = train(engine, RESUME_AT)
    if rank == 0:
        print("LOSSES " + json.dumps(losses), flush=True)
    if world_size > 1:  # a process that ends while gloo's threads live is aborted
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
