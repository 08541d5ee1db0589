"""`store check` finds checkpoints that are damaged or gone, and not those that were pruned."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from stores import tiny_store, write_rows

from sparsing.study.plan.runs import plan_runs
from sparsing.study.status.prune import prune
from sparsing.study.store.care.check import check_store
from sparsing.study.store.care.check_checkpoints import checkpoint_bytes
from sparsing.study.store.checkpoint_folders import (
    PRUNED,
    checkpoint_folder,
    complete_steps,
    set_aside,
)
from sparsing.study.store.checkpoint_marker import MARKER, Checkpoint, file_digest, marker_content
from sparsing.study.store.study_store import StudyStore

RUN = "relu-d8x2-wd4-s0"


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    """One run, done, with all its checkpoints and their rows."""
    axes = {"activation": ["relu"], "scale": [{"d_h": 8, "layers": 2}]}
    kept = {"stabilizing_checkpoints": 1}
    store = tiny_store(tmp_path, axes=axes, checkpoints={"count": 4}, measurement=kept)
    (run,) = plan_runs(store.study)
    for step in run.checkpoint_steps:
        folder = checkpoint_folder(store.path, run.id, step)
        folder.mkdir(parents=True)
        (folder / "shard.safetensors").write_bytes(b"weights" * step)
        write_marker(folder, step)
        row = {"step": step, "tokens": step * 16, "path": str(folder), "validation_loss": 3.0}
        write_rows(store, "checkpoints", run.id, [row], stream=f"s{step}")
    write_rows(store, "runs", run.id, [{"step": run.steps, "state": "done"}])
    return store


def write_marker(folder: Path, step: int, *, digests: bool = True) -> None:
    file = folder / "shard.safetensors"
    about = Checkpoint(
        run=RUN,
        attempt=1,
        step=step,
        tokens=step * 16,
        files={file.name: file.stat().st_size},
        digests={file.name: file_digest(file)},
        config={},
        code_version="test",
        save_seconds=0.0,
    )
    content = marker_content(about if digests else replace(about, digests=None))
    (folder / MARKER).write_bytes(content)


def found(store: StudyStore) -> set[tuple[str, str]]:
    """Name of the checkpoint, kind."""
    report = check_store(store)
    return {(Path(f.path).name, f.kind) for f in report.findings if "checkpoints" in f.path}


def folder_of(store: StudyStore, number: int) -> Path:
    return checkpoint_folder(store.path, RUN, complete_steps(store.path, RUN)[number])


def test_sound_checkpoints_are_no_finding_and_all_is_read(store: StudyStore) -> None:
    read: list[int] = []
    report = check_store(store, read.append)
    assert report.damage == []
    assert found(store) == set()
    markers = sum(path.stat().st_size for path in store.path.glob(f"checkpoints/*/*/{MARKER}"))
    assert sum(read) == checkpoint_bytes(store) - markers


def test_each_damage_is_found(store: StudyStore) -> None:
    flipped, cut, gone, marked = (folder_of(store, number) for number in range(4))
    (flipped / "shard.safetensors").write_bytes(b"Weights" * 4)
    content = bytearray((flipped / "shard.safetensors").read_bytes())
    write_marker(flipped, 4)
    content[0] ^= 1
    (flipped / "shard.safetensors").write_bytes(content)
    (cut / "shard.safetensors").write_bytes(b"w")
    shutil.rmtree(gone)
    (marked / MARKER).write_bytes(
        (marked / MARKER).read_bytes().replace(b'"attempt": 1', b'"attempt": 2')
    )
    assert found(store) == {
        (flipped.name, "checkpoint"),
        (cut.name, "checkpoint"),
        (gone.name, "missing"),
        (marked.name, "checkpoint"),
    }
    assert len(check_store(store).damage) == 4


def test_another_run_s_checkpoint_is_found(store: StudyStore) -> None:
    first, second = folder_of(store, 0), folder_of(store, 1)
    shutil.rmtree(second)
    shutil.copytree(first, second)
    assert found(store) == {(second.name, "checkpoint")}


def test_pruned_ones_are_not_missed_and_deleted_ones_are(store: StudyStore) -> None:
    assert len(prune(store)) == 3
    assert found(store) == set()
    left = folder_of(store, 0)
    shutil.rmtree(left)
    assert found(store) == {(left.name, "missing")}


def test_those_that_an_earlier_version_pruned_are_not_missed(store: StudyStore) -> None:
    prune(store)
    (store.path / "checkpoints" / RUN / PRUNED).unlink()
    assert found(store) == set()


def test_copies_beside_are_nobody_s_and_what_was_set_aside_is_named(store: StudyStore) -> None:
    folder = folder_of(store, 0)
    shutil.copytree(folder, folder.with_name(f"{folder.name}-hf"))
    assert found(store) == set()
    aside = set_aside(folder)
    assert found(store) == {(folder.name, "missing"), (aside.name, "set aside")}


def test_checkpoints_without_digests_are_a_note(store: StudyStore) -> None:
    folder = folder_of(store, 0)
    write_marker(folder, complete_steps(store.path, RUN)[0], digests=False)
    assert found(store) == {(folder.name, "no digests")}
    assert check_store(store).damage == []
