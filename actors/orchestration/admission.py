"""Whether a study may ask for one gang more: pure, without Ray."""

from __future__ import annotations

from collections.abc import Sequence

from sparsing.actors.orchestration.interfaces import RunningGang
from sparsing.study.definition.model import Resources

PLACEMENTS_AT_ONCE = 2
"""Gangs that ask for room at the same time: two, so that what becomes free is taken at once."""


def may_start(limits: Resources, gangs: Sequence[RunningGang]) -> bool:
    """Whether another gang may ask for its place.

    Args:
        limits: the study's.
        gangs: all that the study has, placed or not.
    """
    if sum(not gang.placed for gang in gangs) >= PLACEMENTS_AT_ONCE:
        return False
    if limits.parallel_runs and len(gangs) >= limits.parallel_runs:
        return False
    # All gangs of a study are alike: one more takes what each takes.
    return not (limits.max_gpus and gangs and (len(gangs) + 1) * gangs[0].gpus > limits.max_gpus)
