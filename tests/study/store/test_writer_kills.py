"""Writers that are really killed: what was acknowledged is there, and everything is there once."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import killed_writers
import pytest
from killed_writers import (
    PROCESSES,
    Reader,
    compact_until_killed,
    die_at,
    go_on,
    received,
    seal_and_die,
    visible_prefix,
    write_and_die,
    write_and_die_late,
    write_generations,
    write_until_killed,
)
from stores import tiny_store

from sparsing.study.store.care.check import check_store

PROCESSES.set_forkserver_preload(["sparsing.study.store.study_store"])
KILLS, SLOW_KILLS = 25, 1000


def kill_again_and_again(root: Path, kills: int, seed: int) -> None:
    """Two in three kills are of a writer, the others of a compactor, each in the middle of work."""
    store, chance, acknowledged = tiny_store(root), random.Random(seed), -1
    compactors: list[multiprocessing.process.BaseProcess] = []
    with Reader(store) as reader:
        for life in range(kills):
            if life % 3 == 0:
                compactors.append(
                    PROCESSES.Process(target=compact_until_killed, args=(root, life), daemon=True)
                )
                compactors[-1].start()
            if len(compactors) == 3:
                compactors[0].kill()
                compactors.pop(0).join()
                continue
            ours, theirs = PROCESSES.Pipe(duplex=False)
            process = PROCESSES.Process(target=write_until_killed, args=(root, life, theirs))
            process.start()
            theirs.close()
            assert ours.recv() == -1  # it has opened its writer
            # Counted in acknowledgements, so that a slow machine kills as late as a fast one.
            news = [ours.recv() for _ in range(chance.randrange(12))]
            time.sleep(chance.uniform(0.0, 0.05))
            process.kill()
            process.join()
            acknowledged = max([acknowledged, *news, *received(ours)])
            assert visible_prefix(store) > acknowledged, f"seed {seed}, life {life}"
        for compactor in compactors:
            compactor.kill()
            compactor.join()
    store.seal("r")
    assert visible_prefix(store) > acknowledged > 10
    assert check_store(store).damage == []
    assert len(reader.counts) > kills


def test_killed_at_random_moments_nothing_is_lost_or_doubled(tmp_path):
    kill_again_and_again(tmp_path, KILLS, seed=time.time_ns())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_a_thousand_times_nothing_is_lost_or_doubled(tmp_path):
    for seed in range(SLOW_KILLS // 100):
        kill_again_and_again(tmp_path / str(seed), 100, seed)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("name", "nth"),
    [("pwrite", 1), ("pwrite", 2), ("fsync", 4), ("fsync", 5), ("fdatasync", 1), ("fdatasync", 2)],
)
def test_killed_at_each_step_of_a_commit(tmp_path, name, nth, when):
    store = tiny_store(tmp_path)
    acknowledged = die_at(tmp_path, write_and_die, (name, when, nth))
    assert len(acknowledged) < 4
    assert visible_prefix(store) > max(acknowledged, default=-1)
    go_on(store)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("name", "nth"),
    [("fsync", 1), ("link", 1), ("fsync", 2), *(("unlink", nth) for nth in (1, 2, 3, 4))],
)
def test_killed_at_each_step_of_sealing_and_compaction(tmp_path, name, nth, when):
    store = tiny_store(tmp_path)
    write_generations(store)
    assert len(list(store.partition("steps", "r").iterdir())) == 3
    die_at(tmp_path, seal_and_die, (name, when, nth))
    assert visible_prefix(store) == 9
    assert store.count_rows("steps") == 18
    go_on(store)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["ftruncate", "fdatasync"])
def test_killed_while_a_torn_log_is_mended(tmp_path, name, when):
    store = tiny_store(tmp_path)
    write_generations(store)
    (log,) = store.partition("steps", "r").glob("_*.log")
    with open(log, "ab") as file:
        file.write(b"torn")
    nth = 2 if name == "fdatasync" else 1
    die_at(tmp_path, write_and_die_late, (name, when, nth))
    assert visible_prefix(store) == 9
    go_on(store)


FULL_DISK = """
import json, os, subprocess, sys
sys.path.insert(0, sys.argv[2])
from stores import step_row, tiny_store
from sparsing.study.store.writer import StoreError
disk = sys.argv[1]
def mount(options):
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=True)
mount("size=256k")
store = tiny_store(disk)
messages, steps, ballast = [], 400, os.path.join(disk, "ballast")
writer = store.writer("steps", run="r", attempt=1, patience_seconds=0.2, commit_seconds=0.01)
def refused(call):
    try:
        call()
    except StoreError as error:
        messages.append(str(error))
for step in range(10):
    writer.append(step, [step_row(step)])
writer.flush()
with open(ballast, "wb", buffering=0) as file:
    try:
        while True:
            file.write(b"x" * 4096)
    except OSError:
        pass
writer.append(10, [step_row(10)])
refused(writer.flush)
os.unlink(ballast)
writer.flush()
mount("remount,ro,size=256k")
writer.append(11, [step_row(11)])
refused(writer.flush)
mount("remount,rw,size=256k")
writer.close()
print(json.dumps([messages, store.scan("steps").collect()["step"].to_list()]))
"""


def _may_mount() -> bool:
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return bool(shutil.which("unshare")) and not subprocess.call(command)


def test_a_full_and_a_read_only_disk(tmp_path):
    if not _may_mount():
        pytest.skip("needs `unshare -rm` and the right to mount a tmpfs in it")
    script = ["-c", FULL_DISK, str(tmp_path), str(Path(killed_writers.__file__).parent)]
    command = ["unshare", "-rm", sys.executable, *script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    (full, read_only), steps = json.loads(done.stdout)
    assert "No space left on device" in full
    assert "Read-only file system" in read_only
    assert steps == list(range(12))
