"""What a study found, in one sentence made from its numbers; unclear where they are."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.stats import spearmanr

from sparsing.analysis.figures.data import NAMES, ReportedRun, StudyData

FEWEST_POINTS = 5
"""With fewer points even a perfect order is chance too often (2 of 24 for four)."""
CHANCE = 0.05
NEARLY_EQUAL_NATS = 0.05
"""Validation losses that differ by less are nearly equal: perplexities within 5 %."""

Direction = Literal["falls", "rises", "unclear"]


def rank_correlation(run: ReportedRun) -> tuple[float, float] | None:
    """Spearman's rank correlation of ratio with tokens in the stable stage, and its p-value.

    None where there are fewer than `FEWEST_POINTS` points, or the ratio never changes.
    """
    points = run.stable_points
    if len(points) < FEWEST_POINTS or len({ratio for _, ratio in points}) == 1:
        return None
    found = spearmanr(*zip(*points, strict=True))
    return float(found.statistic), float(found.pvalue)


def direction(runs: list[ReportedRun]) -> tuple[Direction, list[float]]:
    """What all these runs agree on, and their rank correlations.

    `falls` or `rises` where every run that can be judged does so beyond chance.
    """
    found = [each for each in map(rank_correlation, runs) if each is not None]
    correlations = [correlation for correlation, _ in found]
    signs = {np.sign(correlation) for correlation in correlations}
    if len(signs) != 1 or any(p > CHANCE for _, p in found):
        return "unclear", correlations
    return ("falls" if signs == {-1.0} else "rises"), correlations


def finding(data: StudyData) -> str:
    """The study's finding: how the activation ratio goes with tokens, by activation function."""
    panels = data.by_activation()
    if not panels:
        return "Nothing has been measured yet."
    judged = {name: direction(runs) for name, runs in panels.items()}
    clear = {name: each for name, each in judged.items() if each[0] != "unclear"}
    said = [f"Activation ratio {_clear(clear)}{_losses(data, list(clear))}."] if clear else []
    said += [_unclear(name, found) for name, (_, found) in judged.items() if name not in clear]
    return " ".join(said)


def _clear(judged: dict[str, tuple[Direction, list[float]]]) -> str:
    """`falls with training tokens for A (...) and rises for B (...)`."""
    parts: list[str] = []
    before = ""
    for name, (way, found) in judged.items():
        verb = f"{way} " if way != before else ""
        with_tokens = "" if parts else "with training tokens "
        numbers = _correlations(found, named=not parts)
        parts.append(f"{verb}{with_tokens}for {NAMES[name]} ({numbers})")
        before = way
    return " and ".join(parts)


def _unclear(name: str, found: list[float]) -> str:
    if not found:
        return f"For {NAMES[name]} there are too few measured checkpoints to name a direction yet."
    numbers = _correlations(found, named=True)
    return f"For {NAMES[name]} the direction is unclear ({numbers})."


def _correlations(values: list[float], *, named: bool) -> str:
    what = "rank correlation " if named else ""
    low, high = _signed(min(values)), _signed(max(values))
    if len(values) == 1:
        return what + low
    if low == high:
        return f"{what}{low} in {'both' if len(values) == 2 else f'all {len(values)}'} runs"
    if len(values) == 2:
        return what + " and ".join(map(_signed, values))
    return f"{what}{low} to {high} in {len(values)} runs"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _losses(data: StudyData, names: list[str]) -> str:
    """How the validation losses of these activations compare.

    Nothing where that says little: runs that differ in shape, or have not come equally far.
    """
    means, tokens = {}, set()
    for name in names:
        last = [each for run in data.by_activation()[name] if (each := data.last_validation(run))]
        tokens |= {at for at, _ in last}
        if last:
            means[name] = sum(loss for _, loss in last) / len(last)
    if len(means) < 2 or len(tokens) > 1 or len({run.group for run in data.measured}) > 1:
        return ""
    numbers = ", ".join(f"{NAMES[name]} {loss:.2f}" for name, loss in means.items())
    near = max(means.values()) - min(means.values()) <= NEARLY_EQUAL_NATS
    how = "nearly equal" if near else "different"
    return f", at {how} validation loss ({numbers} nats per token)"
