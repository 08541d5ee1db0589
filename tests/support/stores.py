"""Small studies and rows for the tests of the store."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any

from sparsing.study.definition.model import Study
from sparsing.study.store.study_store import StudyStore


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


def write_rows(
    store: StudyStore,
    table: str,
    run: str,
    rows: list[dict[str, Any]],
    *,
    attempt: int = 1,
    stream: str = "main",
) -> None:
    """Append rows under the next sequence number, durably."""
    with store.writer(table, run=run, attempt=attempt, stream=stream) as writer:
        writer.append(writer.next_seq, rows)


class SetClock(datetime):
    """The writers' clock at a time that a test sets: patch it in as `study.store.rows.datetime`."""

    time = datetime(2030, 1, 1, tzinfo=UTC)

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        """The time set."""
        return cls.time


def state_row(state: str, step: int = 0, **changes: Any) -> dict[str, Any]:
    """A row of the table `runs`."""
    return {"step": step, "state": state} | changes


def checkpoint_row(step: int, **changes: Any) -> dict[str, Any]:
    """A row of the table `checkpoints`."""
    return {"step": step, "tokens": 16 * step, "path": f"checkpoints/{step}"} | changes


def sparsity_row(step: int, activation_ratio: float, **changes: Any) -> dict[str, Any]:
    """A row of the table `sparsity`: the mean over layers of the mixture."""
    row = {
        "step": step,
        "tokens": 16 * step,
        "stage": "live",
        "metric": "cett_ppl",
        "p_percent": 1.0,
        "cett": 0.2,
        "activation_ratio": activation_ratio,
        "measured_tokens": 1000,
        "measure_seconds": 0.5,
    }
    return row | changes


def fit_row(step: int, **changes: Any) -> dict[str, Any]:
    """A row of the table `fits`, of a law whose limit is not identified."""
    row = {
        "step": step,
        "tokens": 16 * step,
        "stage": "live",
        "law": "relu",
        "parameters": '{"a0": 0.1}',
        "intervals": '{"a0": [null, 0.3]}',
        "identified": '{"a0": false}',
        "mse": 1e-6,
        "points": 2,
        "dropped": 0,
        "rows_tokens": [16, 32],
        "rows_activation_ratio": [0.5, 0.4],
        "settings": "{}",
        "fit_seconds": 0.02,
    }
    return row | changes
