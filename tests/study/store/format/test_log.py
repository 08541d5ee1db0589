from __future__ import annotations

import random

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsing.study.store.format.log import (
    decode,
    encode_commit,
    encode_start,
    frame_crc,
    read_log,
    whole_frames,
)

SCHEMA = pa.schema([("step", pa.int64()), ("text", pa.string())], metadata={"a": "b"})


def commit_rows(i: int) -> list[dict[str, object]]:
    return [{"step": i, "text": "x" * i}] * (i % 3)


def make_log(commits: int) -> tuple[bytes, list[int]]:
    """A log of some commits, of 0 to 2 rows, and the offsets at which its frames end."""
    data = encode_start(SCHEMA)
    crc, ends = read_log(data).last_crc, [len(data)]
    for i in range(commits):
        batch = pa.RecordBatch.from_pylist(commit_rows(i), schema=SCHEMA)
        frame = encode_commit(crc, [(i, i), (100 + i, 110 + i)], batch)
        data, crc = data + frame, frame_crc(frame)
        ends.append(len(data))
    return data, ends


DATA, ENDS = make_log(7)


def test_a_log_reads_as_what_was_written():
    content = read_log(DATA)
    assert (content.valid_bytes, content.size) == (len(DATA), len(DATA))
    assert content.ranges == [pair for i in range(7) for pair in ((i, i), (100 + i, 110 + i))]
    rows = decode(content.schema, content.commits)
    assert rows.to_pylist() == [row for i in range(7) for row in commit_rows(i)]
    assert rows.schema.equals(SCHEMA, check_metadata=True)
    assert content.rows == rows.num_rows


@pytest.mark.parametrize("garbage", [b"", b"\0" * 40])
def test_every_truncation_reads_as_the_prefix_of_whole_commits(garbage):
    for length in range(len(DATA)):  # a frame may end in zeros, which garbage may complete
        data = DATA[:length] + garbage
        content = read_log(data)
        whole = [end for end in ENDS if data[:end] == DATA[:end]]
        assert content.valid_bytes == (whole[-1] if whole else 0)
        assert len(content.commits) == max(0, len(whole) - 1)


def test_every_flipped_bit_ends_the_prefix_and_hides_no_other_commit():
    for bit in range(8 * len(DATA)):
        check_flip(bit)


def check_flip(bit: int) -> None:
    damaged = bytearray(DATA)
    damaged[bit // 8] ^= 1 << bit % 8
    frame = sum(end <= bit // 8 for end in ENDS)
    content = read_log(bytes(damaged))
    assert content.valid_bytes == (ENDS[frame - 1] if frame else 0)
    assert len(content.commits) == max(0, frame - 1)
    behind = list(whole_frames(bytes(damaged), content.valid_bytes))
    assert [f.stop for f in behind if f.ranges] == ENDS[1:][frame if frame else 0 :]


@given(data=st.binary(max_size=300))
def test_any_bytes_are_read_without_an_error(data):
    assert read_log(data).commits == ()
    assert list(whole_frames(data, 0)) == []


def test_frames_of_another_log_do_not_count():
    other, ends = make_log(3)
    chance = random.Random(1)
    cut = chance.choice(ENDS[2:-1])
    content = read_log(DATA[:cut] + other[ends[0] :])
    assert content.valid_bytes == cut
