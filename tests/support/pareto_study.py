"""A study with Pareto curves, and saved models of it."""

from __future__ import annotations

import torch
from safetensors.torch import save_file

from sparsing.actors.models.transformer import ModelConfig, Transformer
from sparsing.actors.training.checkpoint_write import write_marker
from sparsing.study.definition.model import Study
from sparsing.study.store.checkpoint_folders import checkpoint_folder
from sparsing.study.store.checkpoint_marker import Checkpoint, file_digest
from sparsing.study.store.study_store import StudyStore


def study(**measurement: object) -> Study:
    return Study.model_validate(
        {
            "name": "pareto",
            "axes": {"scale": [{"d_h": 16, "layers": 2, "d_f": 40, "heads": 2}]},
            "tokens": 4096,
            "data": {
                "domains": {"code": {"kind": "python-stdlib"}},
                "tokenizer": {"kind": "bytes"},
                "sequence_tokens": 64,
                "max_bytes": 100_000,
                "validation": {"tokens": 4096},
            },
            "optimization": {"batch_tokens": 512, "decay_tokens": 1024},
            "checkpoints": {"count": 2},
            "measurement": measurement,
        }
    )


def save_model(store: StudyStore, run: str, step: int) -> None:
    """A complete checkpoint of a model that was not trained."""
    torch.manual_seed(step)
    config = ModelConfig(d_h=16, layers=2, d_f=40, heads=2, activation="relu", vocabulary_size=257)
    folder = checkpoint_folder(store.path, run, step)
    folder.mkdir(parents=True)
    weights = Transformer(config).state_dict()
    file = folder / "attempt-1-shard-0.safetensors"
    save_file({f"weight/{n}": t for n, t in weights.items()}, file)
    checkpoint = Checkpoint(
        run=run,
        attempt=1,
        step=step,
        tokens=step * 512,
        files={file.name: file.stat().st_size},
        digests={file.name: file_digest(file)},
        config=vars(config),
        code_version="test",
        save_seconds=0.0,
    )
    write_marker(folder, checkpoint)
