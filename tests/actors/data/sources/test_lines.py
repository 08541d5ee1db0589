"""Lines are read with bounded memory, and ranges of a file give each line once."""

from __future__ import annotations

import gzip
import io

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsing.actors.data.sources import lines as module
from sparsing.actors.data.sources.lines import LineTooLongError, lines


def plain(content: bytes, name: str = "a", **range_of: int | None) -> list[bytes]:
    return [line for _, line in lines(io.BytesIO(content), name, **range_of)]


contents = st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"")), max_size=12).map(
    b"\n".join
)


def expected(content: bytes) -> list[bytes]:
    content = content.removeprefix(b"\xef\xbb\xbf")
    return content.removesuffix(b"\n").split(b"\n") if content else []


@given(contents, st.integers(1, 40), st.integers(1, 9))
@settings(deadline=None, max_examples=300)
def test_ranges_one_after_the_other_give_every_line_once(content, size, chunk):
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_BYTES", max(3, chunk))
        found = []
        for start in range(0, len(content), size):
            end = start + size if start + size < len(content) else None
            found += plain(content, start=start, end=end)
        assert found == expected(content)
        assert plain(content) == expected(content)


@given(contents)
def test_offsets_say_where_lines_begin(content):
    if content.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")):
        return
    for offset, line in lines(io.BytesIO(content), "a"):
        assert content[offset : offset + len(line)] == line


def test_compressed_files_and_a_byte_order_mark():
    text = b"\xef\xbb\xbfone\ntwo"
    assert plain(text) == [b"one", b"two"]
    assert plain(gzip.compress(text), "a.gz") == [b"one", b"two"]
    assert plain(pa.compress(text, "zstd", asbytes=True), "a.zst") == [b"one", b"two"]
    several = gzip.compress(b"one\n") + gzip.compress(b"two\n")
    assert plain(several, "a.gz") == [b"one", b"two"]


@pytest.mark.parametrize("name", ["a.gz", "a.zst"])
def test_damage_is_an_error_of_the_file(name):
    text = b"line\n" * 10_000
    packed = gzip.compress(text) if name == "a.gz" else pa.compress(text, "zstd", asbytes=True)
    for damaged in (packed[: len(packed) // 2], b"no archive", packed[:12] + packed[20:]):
        with pytest.raises((OSError, EOFError)):
            plain(damaged, name)


def test_a_line_that_is_too_long_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(module, "LONGEST_LINE_BYTES", 2 * module.CHUNK_BYTES)

    class Endless(io.RawIOBase):
        taken = 0

        def read(self, size: int = -1) -> bytes:
            self.taken += size
            return b"x" * size

    file = Endless()
    with pytest.raises(LineTooLongError):
        list(lines(file, "a"))  # type: ignore[arg-type]
    assert file.taken <= 4 * module.CHUNK_BYTES


def test_utf16_is_refused():
    with pytest.raises(UnicodeError, match="UTF-16"):
        plain("text\n".encode("utf-16"))
