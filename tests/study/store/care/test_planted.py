"""What somebody else put into a store, or took out of it: found, harmless, healed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stores import step_row, tiny_store, write_rows

from sparsing.study.errors import DamagedError, SparsingError
from sparsing.study.store.care.check import check_store
from sparsing.study.store.care.repair import repair_store
from sparsing.study.store.format.log import encode_frame, encode_start, frame_crc, read_log
from sparsing.study.store.format.partition import Log
from sparsing.study.store.format.segments import damaged_columns
from sparsing.study.store.rows import RowEncoder
from sparsing.study.store.study_store import StudyStore
from sparsing.study.store.tables import TABLES

STEPS = TABLES["steps"]
RUN = "r"


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    """Three commits of one step each, in a log."""
    store = tiny_store(tmp_path)
    for step in range(3):
        write_rows(store, "steps", RUN, [step_row(step)])
    return store


def folder(store: StudyStore) -> Path:
    return store.path / "tables" / "steps" / RUN


def steps(store: StudyStore) -> list[int]:
    return store.scan("steps").sort("step").collect()["step"].to_list()


def kinds(store: StudyStore) -> set[str]:
    return {finding.kind for finding in check_store(store).damage}


def batch_bytes(rows: int = 1) -> bytes:
    filled = {"run": RUN, "attempt": 1, "code_version": "x" * 77}
    return RowEncoder(STEPS, filled).encode([step_row(9)] * rows).serialize().to_pybytes()


def bad_offsets() -> bytes:
    """A batch whose text lies outside of its buffer."""
    good, offsets = bytearray(batch_bytes()), bytes(4) + (77).to_bytes(4, "little")
    at = good.rindex(offsets) + 4  # behind the metadata, in which lengths are
    good[at : at + 4] = (10**6).to_bytes(4, "little")
    return bytes(good)


CRAFTED: dict[str, tuple[bytes, int, tuple[tuple[int, int], ...]]] = {
    "garbage": (b"\xff" * 200, 1, ((9, 9),)),
    "nothing": (b"", 1, ((9, 9),)),
    "more rows than it says": (batch_bytes(3), 1, ((9, 9),)),
    "text outside of its buffer": (bad_offsets(), 1, ((9, 9),)),
    "a message cut short": (batch_bytes()[:-40], 1, ((9, 9),)),
    "a range that ends before it begins": (batch_bytes(), 1, ((9, 3),)),
    "a negative range": (batch_bytes(), 1, ((-5, 3),)),
    "no range": (batch_bytes(), 1, ()),
}


IN_THE_FRAME = ("a range that ends before it begins", "a negative range", "no range")


@pytest.mark.parametrize("kind", CRAFTED)
def test_a_frame_with_a_right_checksum_that_no_writer_made(store, kind):
    payload, rows, ranges = CRAFTED[kind]
    (log,) = folder(store).glob("_*.log")
    data = log.read_bytes()
    log.write_bytes(data + encode_frame(read_log(data).last_crc, ranges, rows, payload))
    assert kinds(store)
    if kind in IN_THE_FRAME:
        assert steps(store) == [0, 1, 2]  # it is no commit
    else:
        with pytest.raises(DamagedError) as refused:
            steps(store)
        assert str(folder(store)) in str(refused.value)
    copy = store.path.parent / "copy"
    shutil.copytree(store.path, copy / store.study_id)
    sealed = StudyStore.open(copy, store.study_id)
    sealed.seal(RUN)
    assert steps(sealed) == [0, 1, 2]
    assert repair_store(store)
    assert steps(store) == [0, 1, 2]
    assert kinds(store) == set()
    write_rows(store, "steps", RUN, [step_row(3)])
    assert steps(store) == [0, 1, 2, 3]
    kept = b"".join(p.read_bytes() for p in store.path.rglob("*") if "log." in p.name)
    assert payload in kept  # nothing is deleted


def test_a_log_of_another_schema(store):
    schema = pa.schema([("run", pa.string()), ("loss", pa.binary())])
    batch = pa.record_batch([["r"], [b"x"]], schema=schema)
    (last,) = folder(store).glob("_*.log")
    start = encode_start(schema, read_log(last.read_bytes()).last_crc)
    crc = frame_crc(start[8:])
    frame = encode_frame(crc, [(9, 9)], 1, batch.serialize().to_pybytes())
    (folder(store) / Log("main", 1).name).write_bytes(start + frame)
    assert kinds(store) == {"log"}
    with pytest.raises(DamagedError):
        steps(store)
    assert repair_store(store)
    assert steps(store) == [0, 1, 2]
    assert kinds(store) == set()


def plant(kind: str, at: Path, target: Path) -> None:
    if kind == "a link":
        at.symlink_to(target)
    elif kind == "a dangling link":
        at.symlink_to(target.with_name("new"))
    elif kind == "a pipe":
        os.mkfifo(at)
    else:
        at.mkdir()


@pytest.mark.parametrize("kind", ["a link", "a dangling link", "a pipe", "a folder"])
@pytest.mark.parametrize("sealed", [False, True])
def test_nothing_is_written_or_read_through_what_is_named_like_the_next_log(store, kind, sealed):
    if sealed:
        store.seal(RUN)
    mine = store.path.parent / "mine.txt"
    mine.write_text("precious")
    plant(kind, folder(store) / Log("main", 1).name, mine)
    for use in (
        lambda: write_rows(store, "steps", RUN, [step_row(3)]),
        lambda: steps(store),
        lambda: store.seal(RUN),
    ):
        with pytest.raises(SparsingError):
            use()
    assert kinds(store) == {"link"}
    assert repair_store(store)
    assert kinds(store) == set()
    write_rows(store, "steps", RUN, [step_row(3)])
    assert steps(store) == [0, 1, 2, 3]
    assert mine.read_text() == "precious"
    assert not mine.with_name("new").exists()


def test_a_link_planted_while_a_writer_is_at_work(store):
    mine = store.path.parent / "mine.txt"
    with store.writer("steps", run=RUN, attempt=1, patience_seconds=0.2) as writer:
        (folder(store) / Log("main", 0).name).unlink()
        plant("a dangling link", folder(store) / Log("main", 0).name, mine)
        writer.append(9, [step_row(9)])
        with pytest.raises(SparsingError):
            writer.flush()
        (folder(store) / Log("main", 0).name).unlink()
        writer.flush()
    assert not mine.with_name("new").exists()


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("whole_folder", [False, True])
def test_a_newest_log_that_is_gone_is_missed(store, before, whole_folder):
    if before:
        store.seal(RUN)
        write_rows(store, "steps", RUN, [step_row(3)])
    if whole_folder:
        shutil.rmtree(folder(store))
    else:
        for log in folder(store).glob("_*.log"):
            log.unlink()
    assert kinds(store) == {"missing"}
    assert repair_store(store)
    assert kinds(store) == set()
    write_rows(store, "steps", RUN, [step_row(4)])
    kept = [0, 1, 2] if before and not whole_folder else []
    assert steps(store) == [*kept, 4]


def test_a_copy_of_a_runs_folder_is_no_run(store):
    store.seal(RUN)
    write_rows(store, "steps", "other", [step_row(1)])
    assert kinds(store) == set()
    shutil.copytree(folder(store), folder(store).with_name("r.bak"))
    assert kinds(store) == {"run"}
    other = folder(store).with_name("other")
    shutil.copytree(other, other.with_name("other.bak"))
    assert {f.path for f in check_store(store).damage if "other" in f.path}


def damage_a_page(file: Path, column: str) -> None:
    metadata = pq.read_metadata(file)
    at = metadata.schema.names.index(column)
    chunk = metadata.row_group(0).column(at)
    data = bytearray(file.read_bytes())
    data[chunk.data_page_offset + chunk.total_compressed_size - 3] ^= 4
    file.write_bytes(data)


def test_pages_have_checksums_and_check_names_the_column(store):
    store.seal(RUN)
    (segment,) = folder(store).glob("*.parquet")
    assert damaged_columns(segment) == []
    damage_a_page(segment, "tokens")
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(segment, partitioning=None, page_checksum_verification=True)
    assert damaged_columns(segment) == ["tokens"]
    (found,) = check_store(store).damage
    assert found.kind == "digest"
    assert "tokens" in found.detail


def test_a_verified_scan_gives_no_wrong_value(store):
    store.seal(RUN)
    (segment,) = folder(store).glob("*.parquet")
    data, whole = segment.read_bytes(), store.scan("steps", verify=True).collect()
    assert whole.equals(store.scan("steps").collect())
    for bit in range(0, 8 * len(data), 8 * len(data) // 100):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        segment.write_bytes(flipped)
        with pytest.raises(DamagedError):
            store.scan("steps", verify=True).collect()
