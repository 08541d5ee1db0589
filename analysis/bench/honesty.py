"""`sparsing bench honesty`: whether intervals, forecasts and stops hold when the law does not.

Made-up curves of every kind in `hard_curves` from the published laws, and the measured curves in
the folder SPARSING_CURVES, if it is set, cut at every tenth. Each figure stands beside its bar:
shares of 95 % intervals that hold, their width relative to an oracle that knows law and noise, how
many first stops were wrong when a run is looked at after every checkpoint, and the GPU-hours used.
`repeats` curves are made of each kind and published law.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sparsing.analysis.bench.hard_curves import KINDS, HardCurve, Kind, hard_curve
from sparsing.analysis.evidence.evidence import Answer, Evidence, weigh
from sparsing.analysis.fitting.fit_curve import fit_curve
from sparsing.analysis.forecasting.run_advice import known_well
from sparsing.analysis.forecasting.target import Wish
from sparsing.analysis.laws.published import (
    CURVES_FOLDER,
    MEASURED,
    PUBLISHED,
    published_curve,
)
from sparsing.analysis.laws.sparsity import Floats
from sparsing.study.bench.bench import Case, measured_once

LEVEL = 0.95
LEAST_COVERED, LEAST_COVERED_TWO_PHASES = 0.90, 0.75
CUTS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
LEVELS = {0.95: 0.92, 0.9: 0.84, 0.8: 0.74}
"""Levels of the bands on measured curves, and the share of later points that they must hold."""
FIRST_LOOK, LOOKS_APART = 8, 4
"""The first look at a made-up run has this many points, the next ones so many more; measured curves
are looked at after every checkpoint."""
LEAST_RIGHT, MOST_HOURS = 0.97, 0.6
STOP_CURVES = 4
"""Of `repeats` curves of each kind and law, one in this many is looked at after its checkpoints."""
AHEAD = 10.0
"""Laws are also asked at this many times the last tokens."""


def cases(repeats: int) -> list[Case]:
    """Coverage and width of each kind, bands on the measured curves, stops."""
    found = [case for kind in KINDS.values() for case in _coverage_cases(kind, repeats)]
    if os.environ.get(CURVES_FOLDER):
        found += _band_cases()
        found += _stop_cases("measured curves", [_measured_looks(name) for name in MEASURED])
    every = max(1, repeats // STOP_CURVES)
    synthetic = [
        _looks(hard_curve(kind, base, seed))
        for kind in KINDS.values()
        for base in PUBLISHED
        for seed in range(every)
        if kind.points > FIRST_LOOK + LOOKS_APART
    ]
    found += _stop_cases("made-up curves", synthetic)
    return found


@dataclass(frozen=True)
class Held:
    """What one curve's answers were worth."""

    limit: bool
    """Whether the interval of the limit held it; an open side holds everything."""
    identified: bool
    ahead: bool
    """Whether the interval of the law at AHEAD times the tokens held it."""
    width: float
    """Of the limit's interval, in multiples of the oracle's; nan where one is open or unknown."""


def held(curve: HardCurve, level: float = LEVEL) -> Held:
    """Fit a curve by its activation's law and compare what is said with what is true."""
    evidence = weigh(fit_curve(curve.tokens, curve.ratios, law=curve.law, drop=0, level=level))
    limit = evidence.limit()
    at = float(curve.tokens[-1] * AHEAD)
    _, low, high = evidence.predict_many([at], measurement=False, bends=False)
    truth = float(curve.truth(np.array([at / 1e9]))[0])
    oracle = _oracle_width(curve, level)
    width = np.nan
    if limit.low is not None and limit.high is not None:
        width = (limit.high - limit.low) / oracle
    return Held(
        limit=holds(limit, curve.limit),
        identified=limit.identified,
        ahead=bool(low[0] <= truth <= high[0]),
        width=width,
    )


def holds(answer: Answer, truth: float) -> bool:
    """Whether an interval, whose open sides hold everything, has the truth inside."""
    above = answer.low is None or answer.low <= truth
    return above and (answer.high is None or truth <= answer.high)


def _oracle_width(curve: HardCurve, level: float) -> float:
    """Width of the limit's interval by the true law with the true weights; nan without one."""
    if curve.true_law is None:
        return float("nan")
    fit = fit_curve(
        curve.tokens,
        curve.ratios,
        law=curve.true_law,
        weights=curve.weights,
        drop=0,
        level=level,
    )
    low, high = fit.intervals["A0"]
    if low is None or high is None:
        return float("nan")
    return (high - low) * float(np.sqrt((1 + curve.rho) / (1 - curve.rho)))


def _coverage_cases(kind: Kind, repeats: int) -> Iterator[Case]:
    for law in ("relu", "silu"):
        bases = [name for name in PUBLISHED if name.endswith(law)]
        found = [held(hard_curve(kind, base, seed)) for base in bases for seed in range(repeats)]
        bar = LEAST_COVERED_TWO_PHASES if kind.two_phases else LEAST_COVERED
        known = np.mean([each.identified for each in found])
        yield _share(
            f"{kind.name}, {law}: limit held ({known:.0%} identified)",
            [each.limit for each in found],
            bar,
        )
        yield _share(f"{kind.name}, {law}: {AHEAD:g}x tokens", [h.ahead for h in found], bar)
        widths = np.array([each.width for each in found])
        if np.isfinite(widths).any():
            yield measured_once(
                f"{kind.name}, {law}: width of the limit's interval",
                float(np.nanmedian(widths)),
                1.0,
                baseline_name="oracle",
                unit="x",
                better="lower",
                repeats=len(found),
            )


def _share(case: str, found: list[bool], bar: float) -> Case:
    return measured_once(
        case,
        float(np.mean(found)),
        bar,
        baseline_name="bar",
        unit="of intervals",
        better="higher",
        repeats=len(found),
    )


def _band_cases() -> Iterator[Case]:
    """Bands of first parts of the measured curves, against the points after them."""
    inside: dict[float, list[bool]] = {level: [] for level in LEVELS}
    worst = 1.0
    for name in MEASURED:
        tokens, ratios = published_curve(name)
        for cut in CUTS:
            end = round(cut * len(tokens))
            evidence = weigh(fit_curve(tokens[:end], ratios[:end]))
            for level in LEVELS:
                _, low, high = evidence.predict_many(tokens[end:], level=level)
                now = (low <= ratios[end:]) & (ratios[end:] <= high)
                inside[level] += now.tolist()
                worst = min(worst, float(now.mean())) if level == LEVEL else worst
    for level, bar in LEVELS.items():
        yield _share(f"measured curves: {level:.0%} bands, later points", inside[level], bar)
    yield measured_once(
        "measured curves: 95 % band, worst curve and cut",
        worst,
        0.8,
        baseline_name="bar",
        unit="of points",
        better="higher",
        repeats=len(MEASURED) * len(CUTS),
    )


@dataclass(frozen=True)
class Stop:
    """The first look at a run that would have stopped it."""

    share: float
    """Of the planned tokens that were trained by then; 1 where no look stopped it."""
    wrong: bool
    """Whether the limit lay outside the interval that stopped it."""


def first_stop(looks: Iterator[tuple[float, Evidence]], limit: float) -> Stop:
    """Look at a run again and again: pairs of the share trained and the evidence by then."""
    wish = Wish()
    for share, evidence in looks:
        if known_well(wish, evidence):
            estimate = wish.of(evidence)
            return Stop(share, not holds(Answer(*estimate[:3]), limit))
    return Stop(1.0, False)


def _looks(curve: HardCurve) -> Stop:
    looks = _evidence(curve.tokens, curve.ratios, curve.law, drop=0, apart=LOOKS_APART)
    return first_stop(looks, curve.limit)


def _measured_looks(name: str) -> Stop:
    """Judged by the limit that the whole curve has."""
    tokens, ratios = published_curve(name)
    limit = weigh(fit_curve(tokens, ratios)).limit().value
    assert limit is not None
    return first_stop(_evidence(tokens, ratios, "auto", drop=None, apart=1), limit)


def _evidence(
    tokens: Floats, ratios: Floats, law: str, *, drop: int | None, apart: int
) -> Iterator[tuple[float, Evidence]]:
    for end in range(FIRST_LOOK, len(tokens) + 1, apart):
        fit = fit_curve(tokens[:end], ratios[:end], law=law, drop=drop)
        yield float(tokens[end - 1] / tokens[-1]), weigh(fit)


def _stop_cases(name: str, stops: list[Stop]) -> Iterator[Case]:
    yield measured_once(
        f"{name}: runs without a wrong first stop",
        float(np.mean([not stop.wrong for stop in stops])),
        LEAST_RIGHT,
        baseline_name="bar",
        unit="of runs",
        better="higher",
        repeats=len(stops),
    )
    yield measured_once(
        f"{name}: GPU-hours used until the first stop",
        float(np.mean([stop.share for stop in stops])),
        MOST_HOURS,
        baseline_name="bar",
        unit="of the plan",
        better="lower",
        repeats=len(stops),
    )
