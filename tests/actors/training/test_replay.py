"""Replayed steps are compared with the rows that the store has of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from stores import step_row, tiny_store, write_rows

from sparsing.actors.training.replay import TOLERANCE, ReplayCheck
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.study_store import StudyStore

CPU, GPU = "CPU, float32, ZeRO 0", "NVIDIA A800, bfloat16, ZeRO 1"
LOSSES = {step: 4.0 - step / 10 for step in range(1, 9)}


def stored(root: Path, device: str, world_size: int) -> StudyStore:
    store = tiny_store(root)
    run = plan_runs(store.study)[0].id
    row = {"step": 0, "state": "training", "device": device, "world_size": world_size}
    write_rows(store, "runs", run, [row], stream="controller")
    write_rows(store, "steps", run, [step_row(step, loss=x) for step, x in LOSSES.items()])
    return store


def replayed(
    store: StudyStore, change: float, device: str = CPU, world_size: int = 2
) -> str | None:
    """Steps from 5 on are trained again, step 7 with another loss."""
    check = ReplayCheck(store, plan_runs(store.study)[0], 4, device, world_size)
    for step in range(5, 12):
        loss = LOSSES.get(step, 3.0)
        check.check(step, loss * (1 + change) if step == 7 else loss)
    return check.difference


@pytest.mark.parametrize(
    ("device", "world_size", "change", "differs"),
    [
        (CPU, 2, 0.0, False),
        (CPU, 2, 1e-15, True),
        (CPU, 1, 1e-15, False),
        (CPU, 1, 2 * TOLERANCE, True),
        (GPU, 2, TOLERANCE / 2, False),
        (GPU, 2, -2 * TOLERANCE, True),
    ],
)
def test_equal_to_the_bit_where_nothing_changed(
    tmp_path: Path, device: str, world_size: int, change: float, differs: bool
) -> None:
    found = replayed(stored(tmp_path, CPU, 2), change, device, world_size)
    assert (found is not None) == differs
    if found:
        assert "step 7" in found


def test_two_attempts_on_gpus_may_differ_by_rounding(tmp_path: Path) -> None:
    store = stored(tmp_path, GPU, 2)
    assert replayed(store, 1e-6, GPU) is None
    assert replayed(store, 0.5, GPU) is not None


def test_an_undisturbed_run_has_nothing_to_compare(tmp_path: Path) -> None:
    store = tiny_store(tmp_path)
    assert replayed(store, 1.0) is None
