"""Which checkpoints may go: those of measured runs that their CETT value does not stand on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from stores import tiny_store, write_rows

from sparsing.study.commands.main import cli
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.checkpoint_folders import (
    checkpoint_folder,
    complete_steps,
    stabilizing_steps,
)
from sparsing.study.store.checkpoint_marker import MARKER
from sparsing.study.store.study_store import StudyStore

DONE, TRAINING = "relu-d8x2-wd4-s0", "silu-d8x2-wd4-s0"


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    """Two runs with eight checkpoints of 100 bytes each; one of them is done."""
    store = tiny_store(
        tmp_path,
        checkpoints={"count": 8},
        measurement={"stabilizing_checkpoints": 2},
        optimization={"batch_tokens": 16, "decay_tokens": 256},
    )
    for run in plan_runs(store.study):
        for step in run.checkpoint_steps:
            folder = checkpoint_folder(store.path, run.id, step)
            folder.mkdir(parents=True)
            (folder / "shard.safetensors").write_bytes(b"x" * 98)
            (folder / MARKER).write_text("{}")
    write_rows(store, "runs", DONE, [{"step": 64, "state": "done"}])
    write_rows(store, "runs", TRAINING, [{"step": 64, "state": "training"}])
    return store


def prune(store: StudyStore, *words: str) -> list[dict]:
    arguments = ["store", "prune", "tiny", "--store", str(store.path.parent), "--json", *words]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["removed"]


def test_what_was_searched_stays_and_the_newest(store: StudyStore) -> None:
    run = plan_runs(store.study)[0]
    steps = complete_steps(store.path, DONE)
    kept = sorted({*stabilizing_steps(run, steps, 2), steps[-1]})
    assert kept[-1] > run.steps - run.decay_steps >= kept[1]
    would = prune(store, "--dry-run")
    assert complete_steps(store.path, DONE) == steps
    removed = prune(store)
    assert removed == would
    assert [each["step"] for each in removed] == [step for step in steps if step not in kept]
    assert {(each["run"], each["bytes"]) for each in removed} == {(DONE, 100)}
    assert complete_steps(store.path, DONE) == kept
    assert not checkpoint_folder(store.path, DONE, removed[0]["step"]).exists()
    assert prune(store) == []


def test_runs_that_are_not_measured_keep_all(store: StudyStore) -> None:
    prune(store)
    run = plan_runs(store.study)[1]
    assert complete_steps(store.path, TRAINING) == list(run.checkpoint_steps)


def test_what_a_killed_one_left_is_removed(store: StudyStore) -> None:
    first, *rest = (each["step"] for each in prune(store, "--dry-run"))
    (checkpoint_folder(store.path, DONE, first) / MARKER).unlink()
    assert [each["step"] for each in prune(store)] == [first, *rest]
    assert not checkpoint_folder(store.path, DONE, first).exists()


def test_only_step_and_digits_is_a_checkpoint(store: StudyStore) -> None:
    steps = complete_steps(store.path, DONE)
    folder = checkpoint_folder(store.path, DONE, steps[0])
    for suffix in ("-hf", ".bak", "_10"):
        shutil.copytree(folder, folder.with_name(folder.name + suffix))
    shutil.copytree(folder, folder.with_name("step-7"))
    assert complete_steps(store.path, DONE) == steps
    would = prune(store, "--dry-run")
    assert len(prune(store)) == len(would) == len(steps) - 3
    assert len(list(folder.parent.glob(f"{folder.name}*"))) == 3


def test_of_a_link_only_the_link_goes(store: StudyStore, tmp_path: Path) -> None:
    steps = complete_steps(store.path, DONE)
    folder = checkpoint_folder(store.path, DONE, steps[0])
    elsewhere = folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(elsewhere)
    assert complete_steps(store.path, DONE) == steps
    removed = prune(store)
    assert [each["leads_to"] for each in removed if each["step"] == steps[0]] == [str(elsewhere)]
    assert len(removed) == len(steps) - 3
    assert not folder.is_symlink()
    assert (elsewhere / MARKER).exists()
    assert prune(store) == []


def test_a_link_that_leads_nowhere_is_no_checkpoint_and_goes(store: StudyStore) -> None:
    steps = complete_steps(store.path, DONE)
    folder = checkpoint_folder(store.path, DONE, steps[0])
    shutil.rmtree(folder)
    folder.symlink_to(folder.with_name("nowhere"))
    assert complete_steps(store.path, DONE) == steps[1:]
    prune(store)
    assert not folder.is_symlink()
