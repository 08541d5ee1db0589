"""Made-up studies and rows that benchmarks write."""

from __future__ import annotations

from typing import Any

from sparsing.study.definition.model import Study

ROWS = 100
"""Rows of an append."""
SEQUENCE_TOKENS = 8


def step_rows(first: int, count: int = ROWS) -> list[dict[str, Any]]:
    """Rows of the table `steps`."""
    return [
        {
            "step": step,
            "tokens": 4096 * step,
            "loss": 3.0 + 1 / (1 + step % 977),
            "learning_rate": 1e-3 / (1 + step % 13),
            "grad_norm": 1.0 + step % 7 / 10,
            "tokens_per_second": 1e5 + step % 101,
            "step_seconds": 0.04 + step % 11 / 1e4,
        }
        for step in range(first, first + count)
    ]


def bench_study(runs: int = 1) -> Study:
    """A study of this many tiny runs."""
    content = {
        "name": "bench",
        "axes": {"scale": [{"d_h": 8, "layers": 2}], "seed": list(range(runs))},
        "tokens": 1024,
        "data": {
            "domains": {"code": {"kind": "python-stdlib"}},
            "sequence_tokens": SEQUENCE_TOKENS,
        },
        "optimization": {"batch_tokens": 16},
        "checkpoints": {"count": 4},
    }
    return Study.model_validate(content)
