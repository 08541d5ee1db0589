"""A shard starts from the newest checkpoint that is sound; damaged ones are set aside."""

from __future__ import annotations

from pathlib import Path

import pytest
from stores import tiny_store, write_rows

from sparsing.actors.training.assignment import Assignment
from sparsing.actors.training.fence import Fence
from sparsing.actors.training.start import newest_sound
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.checkpoint_folders import (
    checkpoint_folder,
    complete_steps,
    recovery_folder,
    recovery_steps,
)
from sparsing.study.store.checkpoint_marker import MARKER, Checkpoint, file_digest, marker_content
from sparsing.study.store.study_store import StudyStore


def save(folder: Path, run: str, step: int) -> None:
    folder.mkdir(parents=True)
    file = folder / "shard.safetensors"
    file.write_bytes(b"weights" * step)
    about = Checkpoint(
        run=run,
        attempt=1,
        step=step,
        tokens=step,
        files={file.name: file.stat().st_size},
        digests={file.name: file_digest(file)},
        config={},
        code_version="test",
        save_seconds=0.0,
    )
    (folder / MARKER).write_bytes(marker_content(about))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    """Checkpoints at steps 4 and 8, recovery points at 6 and 10."""
    store = tiny_store(tmp_path)
    run = plan_runs(store.study)[0].id
    for step in (4, 8):
        save(checkpoint_folder(store.path, run, step), run, step)
    for step in (6, 10):
        save(recovery_folder(store.path, run, step), run, step)
    write_rows(store, "runs", run, [{"step": 0, "state": "waiting"}], stream="controller")
    return store


def start(store: StudyStore) -> tuple[int, Path | None, tuple[str, ...]]:
    run = plan_runs(store.study)[0]
    assignment = Assignment(
        study_path=str(store.path), data_path="", run=run, attempt=1, token=0, world_size=1
    )
    return newest_sound(store, assignment, 0, Fence(store, run.id, 1, token=0))


def test_the_newest_of_both_kinds(store: StudyStore) -> None:
    step, folder, damaged = start(store)
    assert (step, damaged) == (10, ())
    assert folder
    assert "recovery" in folder.parts


def test_damaged_ones_are_set_aside_and_said(store: StudyStore) -> None:
    run = plan_runs(store.study)[0].id
    flip(recovery_folder(store.path, run, 10) / "shard.safetensors")
    flip(checkpoint_folder(store.path, run, 8) / MARKER)
    step, _, damaged = start(store)
    assert step == 6
    assert len(damaged) == 2
    assert "step 10" in damaged[0]
    assert (complete_steps(store.path, run), recovery_steps(store.path, run)) == ([4], [6])
    assert len(list(store.path.glob("*/*/*.damaged-1"))) == 2
    assert start(store)[2] == ()


def test_without_a_sound_one_it_starts_anew(store: StudyStore) -> None:
    for marker in store.path.glob(f"*/*/*/{MARKER}"):
        flip(marker)
    step, folder, damaged = start(store)
    assert (step, folder, len(damaged)) == (0, None, 4)
