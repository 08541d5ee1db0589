"""One rank of a gang without Ray, which says how much memory saving and loading take on top.

python memory_gang.py RANK WORLD_SIZE PORT FOLDER STAGE D_H LAYERS
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from torch import distributed as dist

from sparsing.actors.models.checkpoint_read import WEIGHT, CheckpointTensors
from sparsing.actors.models.transformer import ModelConfig, Transformer
from sparsing.actors.training.checkpoint_write import write_marker, write_shard
from sparsing.actors.training.engine import Engine, join_gang
from sparsing.study.definition.load import load_study
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.checkpoint_marker import Checkpoint


def resident(key: str) -> int:
    """Bytes of this process in memory now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024


class Peak:
    """How far memory rose above what it was at the beginning."""

    def __enter__(self) -> Peak:
        self._before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = resident("VmHWM") - self._before


def main(rank: int, world_size: int, port: int, folder: Path, stage: int, d_h: int, layers: int):
    torch.set_num_threads(1)
    join_gang(rank, world_size, "127.0.0.1", port, timeout_seconds=600)
    study = load_study("quickstart")
    run = plan_runs(study)[0]
    optimization = study.optimization.model_copy(update={"zero_stage": stage})
    study = study.model_copy(update={"optimization": optimization})
    config = ModelConfig(
        d_h=d_h,
        layers=layers,
        d_f=d_h * 5 // 2,
        heads=d_h // 64,
        activation="relu",
        vocabulary_size=16000,
    )
    model = Transformer(config)
    largest = 4 * max(p.numel() for p in model.parameters())
    engine = Engine(model, study, run, world_size)
    share = run.batch_sequences // world_size
    engine.step(torch.randint(256, (share, 9)), 0.001)
    with Peak() as save:
        mine = write_shard(engine, folder, 1, rank, world_size)
    written: list = [mine] * world_size
    dist.all_gather_object(written, mine)
    files = {name: about for part in written for name, about in part.items()}
    if rank == 0:
        about = Checkpoint(
            run=run.id,
            attempt=1,
            step=1,
            tokens=0,
            config=asdict(config),
            files={name: size for name, (size, _) in files.items()},
            digests={name: digest for name, (_, digest) in files.items()},
            code_version="test",
            save_seconds=0,
        )
        write_marker(folder, about)
    dist.barrier()
    with Peak() as load:
        tensors = CheckpointTensors(folder)
        for name in engine.shapes():
            tensors[f"{WEIGHT}{name}"].sum()
        engine.load_state(tensors, 1)
    found = {"save": save.bytes, "load": load.bytes, "largest": largest, "rank": rank}
    found["written"] = sum(size for size, _ in mine.values())
    print("MEMORY " + json.dumps(found), flush=True)


if __name__ == "__main__":
    rank, world_size, port = map(int, sys.argv[1:4])
    main(rank, world_size, port, Path(sys.argv[4]), *map(int, sys.argv[5:8]))
