"""Words of messages, and numbers as people read them."""

import pytest

from sparsing.study.definition.messages import did_you_mean, path_text, value_text
from sparsing.study.units import bytes_text, count_text, hours_text


def test_paths():
    assert path_text(("axes", "scale", 2, "d_h")) == "axes.scale[2].d_h"
    assert path_text(()) == ""
    assert path_text(("a\nb\x1e", "\u202ec", "é")) == r"a\nb\x1e.\u202ec.é"
    assert len(path_text(("x" * 1000,))) == 60


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        ("a\nb", r"'a\nb'"),
        (1.5, "1.5"),
        ({"a": 1}, ""),
        ("x" * 100, "'" + "x" * 56 + "..."),
        (10**500, "a number over 1e60"),
    ],
)
def test_values(value, text):
    assert value_text(value) == text


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("layer", "layers"),
        ("LAYERS", "layers"),
        ("peak_lr", "peak_learning_rate"),
        ("lr", None),
        ("xyzzy", None),
        ("", None),
        (7, None),
    ],
)
def test_nearest_word(word, meant):
    hint = did_you_mean(word, ["layers", "peak_learning_rate", "d_h"])
    assert hint == (f"; did you mean '{meant}'?" if meant else "")


def test_numbers():
    assert [count_text(n) for n in (0, 999, 1000, 47_392, 999_999, 1.2e6, 2.44e9)] == [
        *("0", "999", "1K", "47.4K", "1M", "1.2M", "2.44B")
    ]
    assert [bytes_text(n) for n in (5, 48_000, 2.8e12)] == ["5 B", "48 kB", "2.8 TB"]
    hours = [hours_text(h) for h in (0.001, 0.25, 3.456, 12_345)]
    assert hours == ["3.6 s", "15 min", "3.46 h", "12,345 h"]
