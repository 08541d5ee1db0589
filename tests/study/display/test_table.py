"""Tables of text: nothing of a number is cut, whatever the width; what has no room is named."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sparsing.study.display.table import Column, Table, table

CELLS = st.text(st.sampled_from("abc0123456789.e-<&é中"), min_size=1, max_size=30)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=5), st.integers(1, 100))
def test_what_is_shown_is_whole_and_what_is_not_is_named(rows, width):
    headings = ("FIRST", "SECOND", "THIRD")
    shown = table(headings, right=("THIRD",))
    for row in rows:
        shown.add(*row)
    lines = shown.text(width).splitlines()
    kept = [each for each in headings if each in lines[0]]
    assert kept == list(headings[: len(kept)])
    assert kept[:1] == ["FIRST"]
    for row, line in zip(rows, lines[1:], strict=False):
        assert line.split() == list(row[: len(kept)])
    for name in headings[len(kept) :]:
        assert name in lines[-1]


def test_into_a_pipe_nothing_is_left_out():
    shown = table(("run", *(f"column {i}" for i in range(50))))
    shown.add("a", *("1234567890.123" for _ in range(50)))
    assert len(shown.text().splitlines()) == 2
    assert shown.text().count("1234567890.123") == 50


def test_prose_is_wrapped_before_a_column_is_left_out():
    shown = Table([Column("number", right=True), Column("words", prose=True)])
    shown.add("12345678", "one two three four five six seven")
    lines = shown.text(30).splitlines()
    assert max(map(len, lines)) <= 30
    assert lines[-1].split()[-1] == "seven"


def test_html_escapes_what_it_is_given():
    shown = table(("<run>",), title="a & b")
    shown.add("<script>")
    assert "<script>" not in shown.html()
    assert "&lt;script&gt;" in shown.html()


def test_wide_letters_take_two_columns():
    shown = table(("name", "x"))
    shown.add("中文", "1")
    shown.add("abcd", "2")
    wide, narrow = shown.text().splitlines()[1:]
    assert (wide.index("1"), narrow.index("2")) == (4, 6)


def test_line_breaks_and_escapes_in_a_cell_do_not_break_the_table():
    shown = table(("name",))
    shown.add("a\nb\x1b[31mc")
    assert shown.text().splitlines()[1:] == ["a b [31mc"]
