from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from stores import state_row, step_row, tiny_store, write_rows

from sparsing.study.commands.main import cli
from sparsing.study.errors import DamagedError, NotFoundError
from sparsing.study.store.care.check import check_store
from sparsing.study.store.care.repair import repair_store
from sparsing.study.store.files.stream import FileStream
from sparsing.study.store.study_store import StudyStore

FLIPS = 150
SLOW_FLIPS = 10_000


def filled(root: Path, generations: int = 3, commits: int = 2) -> StudyStore:
    """Two sealed generations of a stream and a log of some commits, each of one step."""
    store, step = tiny_store(root), 0
    for generation in range(generations):
        for _ in range(commits):
            write_rows(store, "steps", "r", [step_row(step)])
            step += 1
        if generation < generations - 1:
            seal_log(store)
    return store


def seal_log(store: StudyStore) -> None:
    stream = FileStream(store.path, "steps", "r", "main")
    with stream.locked():
        stream.prepare()
        stream.seal()


def files_of(store: StudyStore) -> list[Path]:
    """Segments, then the log."""
    return sorted(store.partition("steps", "r").iterdir(), key=lambda p: (p.suffix, p.name))[::-1]


def segments_of(store: StudyStore) -> list[Path]:
    return sorted(store.partition("steps", "r").glob("*.parquet"))


def log_of(store: StudyStore) -> Path:
    (log,) = store.partition("steps", "r").glob("_*.log")
    return log


def steps_in(store: StudyStore) -> list[int]:
    return store.scan("steps").collect()["step"].to_list()


def kinds(store: StudyStore) -> list[str]:
    return sorted(finding.kind for finding in check_store(store).findings)


def flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def test_a_whole_store_has_no_findings_and_its_sizes(tmp_path):
    store = filled(tmp_path)
    report = check_store(store)
    assert report.findings == []
    size = report.sizes["steps"]
    assert (size.runs, size.segments, size.logs, size.rows) == (1, 2, 1, 6)
    assert size.bytes == size.bytes_last_day == sum(f.stat().st_size for f in files_of(store))
    assert repair_store(store) == []


def flip_bits(tmp_path: Path, count: int) -> None:
    store, chance = filled(tmp_path), random.Random(5)
    for file in (*segments_of(store), log_of(store)):
        data = file.read_bytes()
        for bit in chance.sample(range(8 * len(data)), count // 3):
            flip(file, bit)
            damage = check_store(store).damage
            assert [f.path for f in damage] == [str(file.relative_to(store.path))], (file, bit)
            file.write_bytes(data)
    assert kinds(store) == []


def test_every_flipped_bit_is_found(tmp_path):
    flip_bits(tmp_path, FLIPS)


@pytest.mark.slow
def test_ten_thousand_flipped_bits_are_found(tmp_path):
    flip_bits(tmp_path, SLOW_FLIPS)


def test_a_damaged_segment_is_set_aside_and_its_steps_can_be_written_again(tmp_path):
    store = filled(tmp_path)
    damaged = segments_of(store)[0]
    flip(damaged, 800)
    with pytest.raises(DamagedError, match="it was changed or damaged"):
        store.seal("r")
    assert [file.suffix for file in files_of(store)] == [".parquet"] * 3
    repair_store(store)
    assert steps_in(store) == [2, 3, 4, 5]
    assert kinds(store) == ["removed"]
    kept = list((store.path / ".removed").rglob(damaged.name))
    assert len(kept) == 1
    with store.writer("steps", run="r", attempt=2) as writer:
        assert [writer.append(step, [step_row(step)]) for step in range(6)] == [1, 1, 0, 0, 0, 0]
    assert sorted(steps_in(store)) == list(range(6))


def test_a_commit_damaged_within_a_log_costs_itself_only(tmp_path):
    store = filled(tmp_path, generations=1, commits=5)
    flip(log_of(store), 8 * (log_of(store).stat().st_size // 2))
    seen = steps_in(store)
    assert seen == list(range(len(seen)))
    assert len(seen) < 4
    assert kinds(store) == ["log"]
    repair_store(store)
    assert sorted(steps_in(store)) == [step for step in range(5) if step != len(seen)]
    assert kinds(store) == ["gap", "removed"]
    with store.writer("steps", run="r", attempt=2) as writer:
        for step in range(5):
            assert writer.append(step, [step_row(step)]) == (step == len(seen))


def test_a_torn_end_is_set_aside_by_the_next_writer(tmp_path):
    store = filled(tmp_path, generations=1)
    with open(log_of(store), "ab") as log:
        log.write(b"half a commit")
    assert steps_in(store) == [0, 1]
    assert kinds(store) == ["torn"]
    write_rows(store, "steps", "r", [step_row(2)])
    assert steps_in(store) == [0, 1, 2]
    assert kinds(store) == ["set aside"]
    repair_store(store)
    assert kinds(store) == ["removed"]
    kept = [f.read_bytes() for f in (store.path / ".removed").rglob("*.torn-*")]
    assert kept == [b"half a commit"]


def test_a_missing_generation_is_said_and_an_empty_segment_goes_on(tmp_path):
    store = filled(tmp_path)
    segments_of(store)[1].unlink()
    with pytest.raises(DamagedError, match="generation 1 is missing"):
        steps_in(store)
    assert kinds(store) == ["gap", "missing"]
    repair_store(store)
    assert steps_in(store) == [0, 1, 4, 5]


def test_what_a_killed_compaction_left_is_no_row_twice(tmp_path):
    store = filled(tmp_path)
    old = {file.name: file.read_bytes() for file in files_of(store)}
    store.seal("r")
    for name, data in old.items():
        (store.partition("steps", "r") / name).write_bytes(data)
    assert steps_in(store) == list(range(6))
    assert store.count_rows("steps") == 6
    assert kinds(store) == ["superseded"] * 3
    copy = shutil.copytree(tmp_path, tmp_path / "copy")
    again = StudyStore.open(copy, "tiny")
    write_rows(again, "steps", "r", [step_row(6)])
    assert kinds(again) == []
    repair_store(store)
    assert kinds(store) == ["removed"]
    assert len(segments_of(store)) == 1


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_damaged_merged_segment_gives_way_to_those_it_replaced(tmp_path, goes_on):
    store = filled(tmp_path)
    old = {file.name: file.read_bytes() for file in files_of(store)}
    store.seal("r")
    flip(segments_of(store)[0], 800)
    for name, data in old.items():
        (store.partition("steps", "r") / name).write_bytes(data)
    if goes_on:
        write_rows(store, "steps", "r", [step_row(6)])
    repair_store(store)
    assert steps_in(store) == list(range(6 + goes_on))
    assert kinds(store) == ["removed"]


def test_foreign_files_and_gaps_are_notes(tmp_path):
    store = filled(tmp_path, generations=1)
    with store.writer("steps", run="r", attempt=1) as writer:
        writer.append(99, [step_row(99)])
    (store.partition("steps", "r") / "notes.txt").write_text("mine")
    assert kinds(store) == ["foreign", "gap"]
    assert check_store(store).damage == []


def call(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["store", *arguments, "--store", str(root)])


def test_the_commands(tmp_path):
    store = filled(tmp_path)
    write_rows(store, "runs", "r", [state_row("done")])
    assert "all promises are kept" in call(tmp_path, "check", "tiny").stdout
    compacted = json.loads(call(tmp_path, "compact", "tiny", "--json").stdout)
    assert (compacted["files_before"], compacted["files_after"]) == (4, 2)
    flip(segments_of(store)[0], 800)
    checked = call(tmp_path, "check", "tiny", "--json")
    assert isinstance(checked.exception, DamagedError)
    assert checked.exception.exit_code == 4
    (finding,) = json.loads(checked.stdout)["findings"]
    assert (finding["kind"], finding["damage"]) == ("digest", True)
    assert "moved" in call(tmp_path, "repair", "tiny").stdout
    assert call(tmp_path, "check", "tiny").exit_code == 0
    assert isinstance(call(tmp_path, "compact", "tiny", "--run", "x").exception, NotFoundError)


def test_only_runs_that_have_ended_are_compacted(tmp_path):
    store = filled(tmp_path)
    write_rows(store, "runs", "r", [state_row("training")])
    compacted = json.loads(call(tmp_path, "compact", "tiny", "--json").stdout)
    assert (compacted["runs"], len(files_of(store))) == (0, 3)
