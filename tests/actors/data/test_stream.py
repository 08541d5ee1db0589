"""A stream of stretches of files reads as the one array that it stands for."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsing.actors.data.stream import TokenStream

FILES = [np.arange(n, dtype="<u2") + 1000 * i for i, n in enumerate((7, 40, 3))]
stretches = st.lists(
    st.integers(0, 2).flatmap(
        lambda f: st.tuples(
            st.just(f), st.integers(0, len(FILES[f]) - 1), st.integers(1, len(FILES[f]))
        )
    ),
    max_size=8,
)


@given(stretches, st.integers(-5, 130), st.integers(0, 60), st.sampled_from([0, 16]))
@settings(deadline=None, max_examples=200)
def test_slices_are_those_of_the_whole(rows, start, length, skipped):
    rows = [(f, a, min(n, len(FILES[f]) - a)) for f, a, n in rows]
    expected = np.concatenate([np.empty(0, "<u2"), *(FILES[f][a : a + n] for f, a, n in rows)])
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for number, content in enumerate(FILES):
            path = Path(folder, f"{number}.bin")
            path.write_bytes(b"\0" * skipped + content.tobytes())
            paths.append((path, np.dtype("<u2"), skipped))
        segments = np.array(rows, dtype=np.int64).reshape(-1, 3)
        stream = TokenStream(paths, segments, np.dtype("<u2"))
        assert stream.shape == expected.shape
        assert np.array_equal(np.asarray(stream), expected)
        assert np.array_equal(stream[start : start + length], expected[start : start + length])
        assert np.array_equal(stream[::3], expected[::3])
        if len(expected):
            assert stream[-1] == expected[-1]
