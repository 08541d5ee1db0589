"""When a shard is an orphan, by what the store and the cluster say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from stores import state_row, tiny_store, write_rows

from sparsing.actors.training import orphan
from sparsing.actors.training.fence import Fence
from sparsing.actors.training.orphan import OrphanWatch, StoreSight
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.control import lease_watch
from sparsing.study.store.control.lease import Process, Record, acquire, study_cell
from sparsing.study.store.study_store import StudyStore

HOLDER = Record(
    owner="host-7, process 1",
    holder="x",
    token=1,
    seconds=15.0,
    process=Process(machine="another", pid=1, started="1"),
)


class Scene:
    """A shard of attempt 1, and a clock that only the test moves."""

    def __init__(self, store: StudyStore) -> None:
        self.store, self.run = store, plan_runs(store.study)[0].id
        self.now, self.cut_off, self.renewal = 1000.0, False, 0
        self.write_lease()

    def watch(self) -> OrphanWatch:
        fence = Fence(self.store, self.run, 1, HOLDER.token)
        return OrphanWatch(StoreSight(self.store.path, fence), lambda: self.cut_off)

    def write_lease(self, **changes: object) -> None:
        cell = study_cell(self.store.path)
        found = cell.read()
        self.renewal += 1
        record = replace(HOLDER, renewal=self.renewal, **changes)
        assert cell.write(record.to_bytes(), found[1] if found else None)

    def look(self, watch: OrphanWatch, seconds: float, *, renewed: bool = False) -> str | None:
        """Looks for so long, every five seconds; the last judgement."""
        judged = None
        for _ in range(int(seconds / orphan.LOOK_SECONDS)):
            self.now += orphan.LOOK_SECONDS
            if renewed:
                self.write_lease()
            watch.look()
            judged = watch.judge()
        return judged


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene(tiny_store(tmp_path / "store"))
    monkeypatch.setattr(orphan.time, "monotonic", lambda: made.now)
    monkeypatch.setattr(lease_watch, "now_seconds", lambda: made.now)
    return made


def test_a_shard_whose_controller_renews_its_lease_is_none(scene: Scene) -> None:
    assert scene.look(scene.watch(), 300, renewed=True) is None


def test_one_whose_controller_gives_no_sign_is_an_orphan_within_half_a_minute(
    scene: Scene,
) -> None:
    watch = scene.watch()
    assert scene.look(watch, 15) is None
    assert "no sign" in (scene.look(watch, 15) or "")


def test_one_with_a_newer_attempt_or_controller_is_an_orphan_at_the_next_look(
    scene: Scene,
) -> None:
    watch = scene.watch()
    assert scene.look(watch, 5) is None
    write_rows(scene.store, "runs", scene.run, [state_row("waiting")], attempt=2)
    assert "attempt 2" in (scene.look(watch, 5) or "")
    watch = scene.watch()
    scene.write_lease(token=2)
    assert "token 2" in (scene.look(watch, 5) or "")


def test_a_pause_of_the_store_alone_makes_no_orphan(scene: Scene) -> None:
    watch = scene.watch()
    assert scene.look(watch, 15) is None
    hidden = scene.store.path.with_name("hidden")
    scene.store.path.rename(hidden)
    scene.store.path.write_bytes(b"")  # not even a folder
    assert scene.look(watch, 120) is None
    scene.store.path.unlink()
    hidden.rename(scene.store.path)
    assert scene.look(watch, 15) is None
    assert scene.look(watch, 60, renewed=True) is None


def test_neither_store_nor_cluster_makes_one(scene: Scene) -> None:
    watch = scene.watch()
    scene.cut_off = True
    assert scene.look(watch, 60, renewed=True) is None
    scene.store.path.rename(scene.store.path.with_name("hidden"))
    scene.store.path.write_bytes(b"")
    assert scene.look(watch, 15) is None
    assert "neither" in (scene.look(watch, 10) or "")


def test_a_lease_that_was_given_back_is_no_sign_of_death(scene: Scene) -> None:
    scene.write_lease(released=True)
    assert scene.look(scene.watch(), 120) is None
    acquire(study_cell(scene.store.path)).release()
