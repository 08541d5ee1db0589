"""Stores of made-up studies for the tests of the advice: runs that follow known laws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from stores import sparsity_row

from sparsing.analysis.refitting.refit import refit
from sparsing.study.definition.model import Study
from sparsing.study.plan.runs import Run, plan_runs
from sparsing.study.store.study_store import StudyStore

Curve = Callable[[np.ndarray], np.ndarray]
"""Billions of tokens -> activation ratios."""


def planned_study(**changes: Any) -> Study:
    """SiLU at 0.4B, 122 billion tokens, 40 equally spaced checkpoints."""
    content = {
        "name": "advised",
        "axes": {"activation": ["silu"], "scale": ["0.4B"]},
        "tokens_per_parameter": 270,
        "data": {"domains": {"code": {"kind": "python-stdlib"}}},
        "checkpoints": {"count": 40},
    }
    return Study.model_validate(content | changes)


def measure(
    store: StudyStore, run: Run, curve: Curve, *, count: int, noise: float, seed: int = 0
) -> None:
    """The ratios of a run's first `count` checkpoints, with normal noise."""
    steps = run.checkpoint_steps[:count]
    tokens = np.array(steps) * run.batch_tokens
    ratios = curve(tokens / 1e9) + np.random.default_rng(seed).normal(0, noise, count)
    rows = [
        sparsity_row(step, float(ratio), tokens=int(at))
        for step, at, ratio in zip(steps, tokens, ratios, strict=True)
    ]
    with store.writer("sparsity", run=run.id, attempt=1) as writer:
        writer.append(0, rows)


def set_state(store: StudyStore, run: Run, state: str, **more: Any) -> None:
    """A change of state of a run."""
    with store.writer("runs", run=run.id, attempt=1) as writer:
        writer.append(writer.next_seq, [{"step": 0, "state": state} | more])


def advised_store(
    root: Path,
    curve_of: Callable[[Run], Curve | None],
    *,
    count: int = 20,
    noise: float = 8e-4,
    **changes: Any,
) -> StudyStore:
    """A fitted store: each run follows its curve for `count` checkpoints; None: not begun."""
    store = StudyStore.create(root, planned_study(**changes))
    for seed, run in enumerate(plan_runs(store.study)):
        if (curve := curve_of(run)) is not None:
            measure(store, run, curve, count=count, noise=noise, seed=seed)
    refit(store, code_version="test")
    return store
