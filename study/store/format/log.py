"""The log of one generation: what its bytes mean.

    "SPRSLOG1"
    frame: the schema      payload = microseconds since 1970 (8 bytes), Arrow schema message
    frame: a commit        ranges of sequence numbers, payload = Arrow record batch message
    frame: a commit        ...

A frame is a header, the ranges (first and last, 8 bytes each) and the payload; all integers are
little-endian. The header has a mark, the CRC of the frame before, the number of ranges, the bytes
of the payload, its rows, and a CRC-32 of all the frame but itself. What counts is the longest
prefix of whole frames, each of which names the one before it: a write that was torn, at whichever
byte, is no commit, and any flipped bit ends the prefix. The first frame of a log that follows
another one names that one's last, so the prefix goes over both, or ends with the first.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from sparsing.study.errors import DamagedError
from sparsing.study.store.format.sequences import Range

MAGIC = b"SPRSLOG1"
MARK = b"\xf5cmt"
BEGIN_CRC = zlib.crc32(MAGIC)
"""What the first frame of a log names when no log is before it."""
CHUNK_ROWS = 1000
"""Chunks of fewer rows are put together: there may be thousands of them."""
_HEADER = struct.Struct("<4sIIIII")
_STARTED = struct.Struct("<q")


@dataclass(frozen=True)
class Frame:
    """A whole frame as it was read."""

    start: int
    """Offset of its first byte in the log."""
    stop: int
    previous: int
    """CRC of the frame before."""
    crc: int
    rows: int
    ranges: tuple[Range, ...]
    """Sequence numbers of the commit; none in the frame of the schema."""
    payload: memoryview

    def follows(self, last: Frame) -> bool:
        """Whether it is the commit that goes on where another frame ends."""
        return self.previous == last.crc and bool(self.ranges)


@dataclass(frozen=True)
class LogContent:
    """A log as far as it counts."""

    schema: bytes
    """Arrow schema message; empty when not even that is whole."""
    started: float
    """When the log was begun, seconds since 1970."""
    previous: int
    """CRC of the last frame of the log before, or BEGIN_CRC."""
    commits: tuple[Frame, ...]
    """Those of the prefix that counts, in order."""
    valid_bytes: int
    """Length of that prefix."""
    last_crc: int
    size: int

    @property
    def rows(self) -> int:
        """Rows of all its commits."""
        return sum(frame.rows for frame in self.commits)

    @property
    def ranges(self) -> list[Range]:
        """Sequence numbers of all its commits."""
        return [pair for frame in self.commits for pair in frame.ranges]


def encode_frame(previous: int, ranges: Sequence[Range], rows: int, payload: bytes) -> bytes:
    """A frame; `previous` is the CRC of the one before it."""
    pairs = struct.pack(f"<{2 * len(ranges)}q", *(n for pair in ranges for n in pair))
    fields = MARK, previous, len(ranges), len(payload), rows
    crc = zlib.crc32(payload, zlib.crc32(pairs, zlib.crc32(_HEADER.pack(*fields, 0))))
    return b"".join((_HEADER.pack(*fields, crc), pairs, payload))


def frame_crc(frame: bytes) -> int:
    """The CRC that the frame behind this one has to name."""
    return int(_HEADER.unpack_from(frame)[-1])


def encode_start(schema: pa.Schema, previous: int = BEGIN_CRC) -> bytes:
    """What a log begins with; `previous` is `last_crc` of the log before it, if there is one."""
    payload = _STARTED.pack(time.time_ns() // 1000) + schema.serialize().to_pybytes()
    return MAGIC + encode_frame(previous, [], 0, payload)


def encode_commit(previous: int, ranges: Sequence[Range], batch: pa.RecordBatch) -> bytes:
    """One commit as a frame."""
    return encode_frame(previous, ranges, batch.num_rows, batch.serialize().to_pybytes())


def read_log(data: bytes | memoryview) -> LogContent:
    """What counts of a log's bytes; never raises for bytes that are wrong."""
    at = len(MAGIC)
    first = _frame_at(data, at) if data[:at] == MAGIC else None
    if first is None or first.ranges or len(first.payload) < _STARTED.size:
        return LogContent(b"", 0.0, 0, (), 0, 0, len(data))
    commits = []
    last = first
    while (frame := _frame_at(data, last.stop)) is not None and frame.follows(last):
        commits.append(frame)
        last = frame
    started = _STARTED.unpack_from(first.payload)[0] / 1e6
    schema = bytes(first.payload[_STARTED.size :])
    return LogContent(
        schema, started, first.previous, tuple(commits), last.stop, last.crc, len(data)
    )


def counting(logs: Iterable[LogContent]) -> Iterator[LogContent]:
    """Of a stream's logs in their order those that count: each goes on where the last one ended."""
    last: LogContent | None = None
    for content in logs:
        if last is not None and content.previous != last.last_crc:
            return
        yield content
        last = content


def whole_frames(data: bytes, start: int) -> Iterator[Frame]:
    """The whole frames at or after an offset, whatever is between them."""
    while (start := data.find(MARK, start)) >= 0:
        frame = _frame_at(data, start)
        if frame is not None:
            yield frame
        start = frame.stop if frame is not None else start + 1


def decode(schema: bytes, frames: Sequence[Frame]) -> pa.Table:
    """The rows of frames that have one schema; of small commits one chunk a column.

    Raises DamagedError where a frame, whose checksum is right, holds other rows than it says, or
    none that can be read: no writer of ours makes one, but somebody else may.
    """
    # Arrow's memory is used again, which for megabytes is quicker than new memory of Python's.
    parts = [schema, *(frame.payload for frame in frames)]
    stream = pa.allocate_buffer(sum(map(len, parts)))
    with pa.FixedSizeBufferWriter(stream) as writer:
        for part in parts:
            writer.write(part)
    try:
        rows = pa.ipc.open_stream(stream).read_all()
        rows.validate(full=True)
    except (pa.ArrowException, OSError, MemoryError, ValueError) as error:
        said = str(error).partition("\n")[0]
        raise DamagedError(
            f"a commit cannot be decoded, though its checksum holds: {said}"
        ) from error
    if rows.num_rows != sum(frame.rows for frame in frames):
        raise DamagedError("a commit holds more or fewer rows than it says")
    return rows if len(rows) >= CHUNK_ROWS * len(parts) else rows.combine_chunks()


def _frame_at(data: bytes | memoryview, start: int) -> Frame | None:
    if len(data) < start + _HEADER.size:
        return None
    mark, previous, pairs, length, rows, crc = _HEADER.unpack_from(data, start)
    ranges_at = start + _HEADER.size
    payload_at = ranges_at + 16 * pairs
    stop = payload_at + length
    if mark != MARK or stop > len(data):
        return None
    view = memoryview(data)
    head = _HEADER.pack(mark, previous, pairs, length, rows, 0)
    if zlib.crc32(view[ranges_at:stop], zlib.crc32(head)) != crc:
        return None
    numbers = struct.unpack_from(f"<{2 * pairs}q", data, ranges_at)
    ranges = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    if any(not 0 <= first <= last for first, last in ranges):
        return None
    return Frame(start, stop, previous, crc, rows, ranges, view[payload_at:stop])
