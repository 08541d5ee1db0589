"""How sure an activation ratio is: a cluster bootstrap over validation sequences.

Tokens of one sequence are alike, so sequences are what is drawn again, within each domain. A
draw of the choosing half moves three things, all in the interval: the perplexity rise and with
it the CETT value, the mean CETT and with it each layer's threshold, and through both the ratio; a
draw of the reporting half moves the ratio itself. The first three move along tangents (log-log
slopes at the measured point) instead of being searched again for every draw; what perplexity
would do off its tangent (`sparsing.actors.measuring.secant`: it is rough) is drawn at random.

Not included: that sequences of one document are alike too, what another training run would
give, and text unlike the validation set.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from sparsing.actors.models.sequences import Sequences

DRAWS = 400
"""Bootstrap draws."""

LONGEST_MOVE = 50.0
"""Of log(ratio), upwards: from next to nothing to all neurons. Untrained models know no bounds."""

SMALLEST_SHARE = 0.05
"""A drawn perplexity rise counts as at least this share of the measured one."""


def draws(sequences: Sequences) -> np.ndarray:
    """How often each draw takes each sequence: (DRAWS, n), the same for the same sequences."""
    generator = np.random.default_rng(zlib.crc32(sequences.tokens.tobytes()))
    taken = np.zeros((DRAWS, len(sequences)), dtype=np.float32)
    for index in range(len(sequences.domains)):
        mine = np.flatnonzero(sequences.domain == index)
        if len(mine):
            taken[:, mine] = generator.multinomial(
                len(mine), np.full(len(mine), 1 / len(mine)), DRAWS
            )
    return taken


def drawn_means(sequences: Sequences, taken: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Means over tokens by domain weights, of each draw: sums (..., n) -> (..., DRAWS)."""
    total = np.zeros((*sums.shape[:-1], len(taken)))
    weight = 0.0
    for index, share in enumerate(sequences.shares):
        mine = sequences.domain == index
        if mine.any():
            tokens = taken[:, mine] @ sequences.counts[mine]
            total += share * (sums[..., mine] @ taken[:, mine].T) / tokens
            weight += share
    return total / weight


@dataclass(kw_only=True)
class ThresholdDraws:
    """What the bootstrap needs to know of how thresholds were chosen."""

    shifts: np.ndarray
    """log(eps drawn / eps) of each layer, (layers, DRAWS)."""
    densities: np.ndarray
    """Share of neurons that become weak per unit of log(eps), of each layer, (layers,)."""


def cett_shifts(
    choose: Sequences,
    dense: list[np.ndarray],
    sparse: list[np.ndarray],
    cett_drawn: list[np.ndarray],
    slope: float,
) -> np.ndarray:
    """log(CETT drawn / CETT) of a searched CETT value: (DRAWS,).

    Args:
        choose: the choosing half.
        dense, sparse: losses of its sequences, of each checkpoint, (n,).
        cett_drawn: log(mean CETT of a draw / CETT) by checkpoint, (layers, DRAWS).
        slope: d log(PPL rise) / d log(CETT).
    """
    taken = draws(choose)
    ratios = [np.exp(drawn_means(choose, taken, s - d)) for s, d in zip(sparse, dense, strict=True)]
    rise = np.mean([np.exp(choose.mean(s - d)) for s, d in zip(sparse, dense, strict=True)]) - 1
    if rise <= 0:
        return np.zeros(DRAWS)
    relative = np.maximum((np.mean(ratios, axis=0) - 1) / rise, SMALLEST_SHARE)
    moved = np.mean([layers.mean(0) for layers in cett_drawn], axis=0)
    return moved - (np.log(relative) + _walks(relative, slope)) / slope


def _walks(relative: np.ndarray, slope: float) -> np.ndarray:
    """How log(rise) of each draw goes on from its line, on the way to its crossing: (DRAWS,).

    A walk of `2 sqrt(r d)` over a log-distance d (`measuring.secant`). A rise itself scatters
    by sqrt(2 r), which says r with the likeness of a sequence's tokens in it.
    """
    distances = np.abs(np.log(relative)) / slope
    steps = np.random.default_rng(0).standard_normal(len(relative))
    return np.sqrt(2 * relative.var() * distances) * steps


def ratio_intervals(
    report: Sequences, active: np.ndarray, chosen: ThresholdDraws | None, domain: int | None
) -> tuple[np.ndarray, tuple[float, float]]:
    """95 % intervals of activation ratios: of each layer, (layers, 2), and of their mean.

    Args:
        report: the reporting half.
        active: share of active neurons, summed over each sequence's tokens, (layers, n).
        chosen: how the thresholds were chosen; None: they are given.
        domain: one domain, or None for the mixture.
    """
    if domain is not None:
        rows = np.flatnonzero(report.domain == domain)
        report, active = report.take(rows), active[:, rows]
    ratios = drawn_means(report, draws(report), active)
    if chosen:
        measured = np.maximum(drawn_means(report, np.ones((1, len(active[0]))), active), 1e-300)
        # Independent halves: any pairing of their draws will do, so long as it is not the same.
        moves = chosen.densities[:, None] / measured * np.roll(chosen.shifts, 1, 1)
        ratios = np.minimum(ratios * np.exp(np.minimum(-moves, LONGEST_MOVE)), 1)
    low, high = np.quantile(ratios.mean(0), [0.025, 0.975])
    return np.quantile(ratios, [0.025, 0.975], axis=1).T, (float(low), float(high))
