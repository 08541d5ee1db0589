from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sparsing.study.store.format.sequences import Coverage, contiguous

seqs_strategy = st.sets(st.integers(0, 60)).map(sorted)


@given(seqs=seqs_strategy)
def test_contiguous_ranges_are_longest_and_complete(seqs):
    ranges = list(contiguous(seqs))
    assert [seq for first, last in ranges for seq in range(first, last + 1)] == seqs
    assert all(left[1] + 1 < right[0] for left, right in pairwise(ranges))


@given(
    ranges=st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 9)).map(lambda p: (p[0], p[0] + p[1]))
    )
)
def test_coverage_is_the_set_of_the_numbers_in_whatever_order_they_come(ranges):
    coverage, numbers = Coverage(), set()
    for first, last in ranges:
        coverage.update([(first, last)])
        numbers.update(range(first, last + 1))
    assert {seq for seq in range(80) if seq in coverage} == numbers
    assert coverage.next_seq == max(numbers, default=-1) + 1
    assert coverage.ranges == list(contiguous(sorted(numbers)))
