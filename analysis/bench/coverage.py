"""How often the intervals hold: coverage of synthetic truths, by kind of curve.

    python -m sparsing.analysis.bench.coverage --replicates 500

Each published law (Table 2) makes `replicates` noisy curves; an interval holds when the law's own
parameter lies inside, on its closed sides. At 500 replicates the standard error of a coverage of
95 % is 1 %.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import click

from sparsing.analysis.fitting.fit import Bounds
from sparsing.analysis.fitting.fit_curve import fit_curve
from sparsing.analysis.laws.published import PUBLISHED, law_of, synthetic
from sparsing.study.display.table import show, table


@dataclass(frozen=True, kw_only=True)
class IntervalCoverage:
    """Of the curves made by one published law."""

    curve: str
    law: str
    replicates: int
    points: int
    level: float
    covered: dict[str, float]
    """Share of the intervals that hold the truth, by parameter."""
    identified: dict[str, float]
    """Share of the fits that identify the parameter."""


def coverage(
    name: str, replicates: int, *, points: int = 40, level: float = 0.95, drop: int | None = 0
) -> IntervalCoverage:
    """Fit `replicates` curves of a published law and count the intervals that hold its parameters.

    `drop`: as in `fit_curve`; 0, for the curves have no warm-up.
    """
    truth, law = PUBLISHED[name], law_of(name)
    first_seed = list(PUBLISHED).index(name) * 10**6
    held = dict.fromkeys(truth, 0)
    identified = dict.fromkeys(truth, 0)
    for replicate in range(replicates):
        curve = synthetic(name, seed=first_seed + replicate, points=points)
        fit = fit_curve(*curve, law=law, level=level, drop=drop)
        for parameter, value in truth.items():
            held[parameter] += holds(fit.intervals[parameter], value)
            identified[parameter] += fit.identified[parameter]
    return IntervalCoverage(
        curve=name,
        law=law,
        replicates=replicates,
        points=points,
        level=level,
        covered={parameter: count / replicates for parameter, count in held.items()},
        identified={parameter: count / replicates for parameter, count in identified.items()},
    )


def holds(bounds: Bounds, value: float) -> bool:
    """Whether a value lies inside an interval, whose open sides hold everything."""
    low, high = bounds
    return (low is None or low <= value) and (high is None or value <= high)


@click.command()
@click.option("--replicates", default=500, show_default=True, type=click.IntRange(1))
@click.option("--points", default=40, show_default=True, type=click.IntRange(8))
@click.option("--level", default=0.95, show_default=True)
@click.option("--dropping", is_flag=True, help="Let each fit choose how many points to drop.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def main(replicates: int, points: int, level: float, dropping: bool, as_json: bool) -> None:
    """Count how often the intervals hold the truth.

    \b
    Example:
      python -m sparsing.analysis.bench.coverage --replicates 500
    """
    drop = None if dropping else 0
    found = [
        coverage(name, replicates, points=points, level=level, drop=drop) for name in PUBLISHED
    ]
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=2))
        return
    shown = table(("curve", "A0 covered", "A0 identified", "others covered"))
    for each in found:
        shown.add(
            each.curve,
            f"{each.covered['A0']:.1%}",
            f"{each.identified['A0']:.0%}",
            ", ".join(f"{p} {share:.1%}" for p, share in each.covered.items() if p != "A0"),
        )
    click.echo(f"{replicates} curves of {points} points each, {level:.0%} intervals")
    show(shown)


if __name__ == "__main__":
    main()
