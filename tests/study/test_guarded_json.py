from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsing.study.guarded_json import MOST_DEPTH, JsonProblem, read_json, read_json_file

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_json_writes_is_read_back(value):
    text = json.dumps(value)
    assert read_json(text) == read_json(text.encode()) == value


@pytest.mark.parametrize(("open_", "close"), [("[", "]"), ('{"a":', "}")])
def test_depth_is_bounded(open_, close):
    def nested(levels: int) -> str:
        return open_ * levels + "1" + close * levels

    read_json(nested(MOST_DEPTH))
    for levels in (MOST_DEPTH + 1, 5_000, 500_000):
        with pytest.raises(JsonProblem):
            read_json(nested(levels))
        with pytest.raises(JsonProblem):
            read_json(open_ * levels)


@pytest.mark.parametrize("text", ["", "{", "nul", b"\xff\xfe1\x00", '{"a": ' + "9" * 5000 + "}"])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(JsonProblem):
        read_json(text)


def test_no_more_of_a_file_is_read_than_it_may_have(tmp_path: Path):
    file = tmp_path / "a.json"
    file.write_bytes(b"\xef\xbb\xbf[1, 2]")
    assert read_json_file(file) == [1, 2]
    with pytest.raises(JsonProblem):
        read_json_file(file, most_bytes=5)
    with pytest.raises(JsonProblem):
        read_json_file(Path("/dev/zero"))
    with pytest.raises(FileNotFoundError):
        read_json_file(tmp_path / "b.json")
