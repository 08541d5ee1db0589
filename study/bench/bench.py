"""`sparsing bench`: our speed as a ratio to a named baseline, measured in the same run.

A benchmark is a module with `cases(repeats) -> list[Case]`. Ratios are over 1 when ours is
better; each is the median over interleaved repeats, so that a busy machine disturbs both sides.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Case:
    """One figure and what it is compared with."""

    case: str
    value: float
    """Median of ours."""
    unit: str
    baseline: str
    """Name of what ours is compared with."""
    baseline_value: float
    ratio: float
    """Median over repeats; over 1 when ours is better."""
    better: str
    """`higher` or `lower`: which way the values are better."""
    repeats: int
    spread: float
    """Of the ratio: (maximum - minimum) / median."""


def compare(
    case: str,
    ours: Callable[[], float],
    baseline: Callable[[], float],
    *,
    baseline_name: str,
    unit: str,
    better: str,
    repeats: int,
) -> Case:
    """Measure both sides in turn, `repeats` times after one warm-up each."""
    ours(), baseline()
    pairs = []
    for repeat in range(repeats):
        if repeat % 2:
            theirs, mine = baseline(), ours()
        else:
            mine, theirs = ours(), baseline()
        pairs.append((mine, theirs))
    ratios = [_ratio(mine, theirs, better) for mine, theirs in pairs]
    ratio = statistics.median(ratios)
    return Case(
        case=case,
        value=statistics.median(m for m, _ in pairs),
        unit=unit,
        baseline=baseline_name,
        baseline_value=statistics.median(t for _, t in pairs),
        ratio=ratio,
        better=better,
        repeats=repeats,
        spread=(max(ratios) - min(ratios)) / ratio,
    )


def measured_once(
    case: str,
    value: float,
    baseline_value: float,
    *,
    baseline_name: str,
    unit: str,
    better: str,
    repeats: int = 1,
    spread: float = 0.0,
) -> Case:
    """A case of two figures that are there already; the baseline may be a bar."""
    return Case(
        case=case,
        value=value,
        unit=unit,
        baseline=baseline_name,
        baseline_value=baseline_value,
        ratio=_ratio(value, baseline_value, better),
        better=better,
        repeats=repeats,
        spread=spread,
    )


def _ratio(value: float, baseline_value: float, better: str) -> float:
    return value / baseline_value if better == "higher" else baseline_value / value


def machine() -> str:
    """Processor, cores and Python of this machine, in words."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            names = (line.partition(":")[2].strip() for line in lines if "model name" in line)
            model = next(names, model)
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"
