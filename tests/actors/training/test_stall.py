"""Recovery points that take more of the time than they may are said, with a better interval."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from sparsing.actors.training.shard import MOST_STALL, stall_problem


@given(st.floats(0.01, 1e4), st.floats(1, 1e5))
def test_it_is_said_just_where_it_is_too_much(save: float, recover: float) -> None:
    problem = stall_problem(save, recover)
    assert (problem is not None) == (save / (save + recover) > MOST_STALL)
    if problem and save >= 1:
        better = re.search(r"; (\d+)s would", problem)
        assert better
        assert stall_problem(save, float(better[1]) * 1.01) is None


def test_the_defaults_at_the_paper_s_size_are_well() -> None:
    """1.2B parameters, a shard of eight, 1 GB/s."""
    assert stall_problem(1.9, 1800.0) is None
    assert stall_problem(40.0, 30.0) is not None
