"""Small studies and rows for the tests of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from study.definition import Study
from study.store import StudyStore


def tiny_study(**changes: Any) -> Study:
    """Two runs, `relu-d8x2-wd4-s0` and `silu-d8x2-wd4-s0`, of 64 steps of 16 tokens."""
    content = {
        "name": "tiny",
        "axes": {"activation": ["relu", "silu"], "scale": [{"d_h": 8, "layers": 2}]},
        "tokens": 1024,
        "data": {"domains": {"code": {"kind": "python-stdlib"}}, "sequence_tokens": 8},
        "optimization": {"batch_tokens": 16},
        "checkpoints": {"count": 4},
    }
    return Study.model_validate(content | changes)


def tiny_store(root: Path, **changes: Any) -> StudyStore:
    """A store of a tiny study."""
    return StudyStore.create(root, tiny_study(**changes))


def step_row(step: int, **changes: Any) -> dict[str, Any]:
    """A row of the table `steps`."""
    row = {
        "step": step,
        "tokens": 16 * step,
        "loss": 5.0 / (1 + step),
        "learning_rate": 0.01,
        "tokens_per_second": 100.0,
        "step_seconds": 0.16,
    }
    return row | changes
