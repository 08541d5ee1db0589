"""Algorithm 1: the CETT value at which perplexity rises by p %, in few forwards (paper, App. A).

Thresholds come from a dense forward over the choosing half. Each layer's CETT staircase is known
exactly in a window around the thresholds needed (`kernels.crossing`), so that one pass serves
all nearby CETT values; where a window lies is told by a few tokens walked in full. The CETT value
is found by a safeguarded secant in log-log of (CETT, perplexity rise): roughly by the divergence of
predictions on a few sequences, then by the loss on all of them.

What is found depends on the checkpoints, the choosing half and p alone, to the last bit: a search
begins with nothing of another one but what a pass always gives the same (`Profile`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from sparsing.actors.measuring.interval import (
    DRAWS,
    ThresholdDraws,
    cett_shifts,
    drawn_means,
    draws,
)
from sparsing.actors.measuring.secant import excess, roughness, solve
from sparsing.actors.models.sequences import Sequences
from sparsing.actors.models.subject import FORWARD_LOGITS, Subject, Visit
from sparsing.kernels.activity import Cett
from sparsing.kernels.crossing import CettWindow

LOWEST_CETT = 1e-4
"""Where the search for the CETT value ends downwards; below it next to nothing is left out."""

FIRST_CETT = 0.2
"""First guess."""

FIRST_SLOPE = 2.5
"""d log(PPL rise) / d log(CETT) before it is known: the loss is flat around the dense model."""

SAMPLE, SAMPLE_TOKENS = 0.125, 2048
"""Share of the sequences for the first, rough search, and tokens that are enough for it; fewer
where their predictions, which are kept, would take more memory than a forward's."""

PILOT_TOKENS = 128
"""Tokens of the sample whose tails are walked in full, to tell where thresholds lie."""

PILOT_POINTS = 512
"""Points kept of a pilot's staircase."""

WINDOW = 1.25
"""A window reaches from its centre divided by this to its centre times this."""

ROUGH, CLOSE = 0.3, 0.02
"""log(rise / wished rise) at which the search on the sample, and on all sequences, ends; the latter
where perplexity is rougher, at that."""


@dataclass(kw_only=True)
class Profile:
    """What dense passes said about a checkpoint; small, worth keeping between measurements.

    Windows are not in it: where they lie is told by the searches before, and sums in them round
    otherwise than in others.
    """

    pilot: list[tuple[np.ndarray, np.ndarray]]
    """Each layer's contributions and CETT, roughly, both increasing."""
    pilot_active: list[np.ndarray]
    """Activation ratio at each of the pilot's contributions."""
    dense_losses: np.ndarray | None = None
    """Dense losses of all choosing sequences, once they were run."""


class Probe:
    """A checkpoint's model, and what its choosing half says about it."""

    def __init__(self, subject: Subject, choose: Sequences, profile: Profile | None = None) -> None:
        self.subject = subject
        self.choose = choose
        most = min(SAMPLE_TOKENS, FORWARD_LOGITS // subject.vocabulary_size)
        self.sample = choose.sample(min(SAMPLE, most / choose.counts.sum()))
        self._predictions: list[Tensor] | None = None
        self.windows: list[CettWindow | None] = [None] * len(subject.ffns)
        """Each layer's exact staircase, where it was needed so far."""
        self.profile = profile or self._look()

    def rough_thresholds(self, cett: float) -> list[float]:
        """eps of each layer, roughly, from the pilot."""
        return [interpolate(cett, means, sizes) for sizes, means in self.profile.pilot]

    def thresholds(self, cett: float) -> list[float]:
        """eps of each layer: the exact crossing of `cett` on the choosing half."""
        guesses = self.rough_thresholds(cett)
        reach = [WINDOW] * len(guesses)
        while True:
            found = [None if w is None else w.crossing(cett) for w in self.windows]
            missing: dict[int, tuple[float, float]] = {}
            for layer, (window, eps) in enumerate(zip(self.windows, found, strict=True)):
                if window is None or eps is None:
                    if window is not None and window.low < guesses[layer] < window.high:
                        reach[layer] **= 2
                        guesses[layer] = window.low if window.base >= cett else window.high
                    missing[layer] = guesses[layer], reach[layer]
                elif not window.fine and eps <= window.largest:
                    missing[layer] = eps, WINDOW
            if not missing:
                return [eps for eps in found if eps is not None]
            self._open(missing)

    def sparse_losses(self, cett: float) -> np.ndarray:
        """Losses of the choosing sequences with all layers sparse at their exact thresholds."""
        with self.subject.sparse([Cett(eps) for eps in self.thresholds(cett)]):
            return self.subject.losses(self.choose)

    def dense_losses(self) -> np.ndarray:
        """Dense losses of the choosing sequences."""
        if self.profile.dense_losses is None:
            self.profile.dense_losses = self.subject.losses(self.choose)
        return self.profile.dense_losses

    def rough_ratio(self, cett: float) -> float:
        """PPL ratio to be expected, by the sample's predictions at rough thresholds."""
        rules = [Cett(eps) for eps in self.rough_thresholds(cett)]
        if self._predictions is None:
            self._predictions = self.subject.predictions(self.sample)
        apart = self.subject.divergences(self.sample, self._predictions, rules)
        return math.exp(self.sample.mean(apart))

    def cett_drawn(self, cett: float) -> np.ndarray:
        """log(mean CETT of each bootstrap draw / CETT) of each layer: (layers, DRAWS)."""
        rows = []
        for window, eps in zip(self.windows, self.thresholds(cett), strict=True):
            assert window is not None
            sums = window.cett_of_sequences(eps).numpy() / np.maximum(self.choose.weights, 1e-300)
            means = drawn_means(self.choose, draws(self.choose), sums)
            mean = self.choose.mean(sums)
            rows.append(np.log(means / mean) if mean > 0 and means.min() > 0 else np.zeros(DRAWS))
        return np.array(rows)

    def threshold_draws(self, cett: float, shifts: np.ndarray | float) -> ThresholdDraws:
        """How thresholds move with bootstrap draws; `shifts`: log of the CETT's own moves."""
        slopes, densities = zip(
            *(interior(w, eps) for w, eps in zip(self.windows, self.thresholds(cett), strict=True)),
            strict=True,
        )
        moved = (shifts - self.cett_drawn(cett)) / np.array(slopes)[:, None]
        return ThresholdDraws(shifts=moved, densities=np.array(densities))

    def _look(self) -> Profile:
        """A dense pass over the sample, some tokens of which are walked in full."""
        windows = {n: CettWindow(sequences=len(self.sample)) for n in range(len(self.windows))}
        stride = max(1, math.ceil(self.sample.counts.sum() / PILOT_TOKENS))
        visit = self._into(windows, self.sample, stride)
        self._predictions = self.subject.predictions(self.sample, visit)
        curves = [w.curve(PILOT_POINTS) for w in windows.values()]
        return Profile(
            pilot=[(c.contributions.double().numpy(), c.cett.numpy()) for c in curves],
            pilot_active=[
                c.active.numpy() / max(1, w.neurons)
                for w, c in zip(windows.values(), curves, strict=True)
            ],
        )

    def _open(self, wanted: dict[int, tuple[float, float]]) -> None:
        """A dense pass that opens windows: layer -> (centre, factor to its edges)."""
        opened = {
            layer: CettWindow(
                centre / reach,
                centre * reach if centre else math.inf,
                sequences=len(self.choose),
            )
            for layer, (centre, reach) in wanted.items()
        }
        self.profile.dense_losses = self.subject.losses(
            self.choose, self._into(opened, self.choose)
        )
        for layer, window in opened.items():
            self.windows[layer] = window

    def _into(self, windows: dict[int, CettWindow], sequences: Sequences, stride: int = 1) -> Visit:
        """What takes every `stride`-th token of a dense pass over the sequences into windows."""

        def visit(layer: int, batch: slice, _: Tensor, z: Tensor, out: Tensor) -> None:
            if layer not in windows:
                return
            real = sequences.counted[batch]
            weights = real * sequences.weights[batch, None]
            owners = np.broadcast_to(np.arange(len(real))[:, None] + batch.start, real.shape)
            parts = (weights.ravel(), owners.ravel())
            weight, owner = (torch.from_numpy(part[::stride].copy()).to(z.device) for part in parts)
            windows[layer].update(
                z.flatten(0, 1)[::stride],
                out.flatten(0, 1)[::stride],
                self.subject.ffns[layer].w_out.weight,
                weight,
                owner,
            )

        return visit


@dataclass(kw_only=True)
class Found:
    """The CETT value of one or more checkpoints."""

    cett: float
    shifts: np.ndarray = field(default_factory=lambda: np.zeros(DRAWS))
    """log(CETT drawn / CETT) of the bootstrap, (DRAWS,)."""


def search_cett(probes: Sequence[Probe], p_percent: float) -> Found:
    """Algorithm 1: the CETT value at which the mean PPL ratio of the checkpoints is 1 + p %.

    Args:
        probes: the checkpoints, with the same choosing half.
        p_percent: rise of perplexity.

    Returns:
        The CETT value in [1e-4, 1]; 1 where even that raises perplexity by less than p %.
    """
    losses: dict[float, list[np.ndarray]] = {}

    def rough(log_cett: float) -> float:
        ratio = float(np.mean([probe.rough_ratio(math.exp(log_cett)) for probe in probes]))
        return excess(ratio - 1, p_percent / 100)

    def whole(log_cett: float) -> float:
        losses[log_cett] = [probe.sparse_losses(math.exp(log_cett)) for probe in probes]
        rises = [
            math.expm1(probe.choose.mean(sparse - probe.dense_losses()))
            for probe, sparse in zip(probes, losses[log_cett], strict=True)
        ]
        return excess(float(np.mean(rises)), p_percent / 100)

    find = partial(solve, slope=FIRST_SLOPE, low=math.log(LOWEST_CETT), high=0.0)
    log_cett, _ = find(rough, math.log(FIRST_CETT), tolerance=ROUGH)
    noise = roughness(probes[0].choose.effective_tokens, p_percent)
    log_cett, slope = find(whole, log_cett, rough=noise, tolerance=max(CLOSE, noise))
    found = Found(cett=math.exp(log_cett))
    drawn = [probe.cett_drawn(found.cett) for probe in probes]
    dense = [probe.dense_losses() for probe in probes]
    found.shifts = cett_shifts(probes[0].choose, dense, losses[log_cett], drawn, slope)
    return found


def interpolate(x: float, xs: np.ndarray, ys: np.ndarray) -> float:
    """y at x in log-log between points that increase; at an end its value, none: 0."""
    if not len(xs):
        return 0.0
    positive = xs > 0
    if not positive.any():
        return float(ys[0])
    return float(np.exp(np.interp(math.log(x), np.log(xs[positive]), np.log(ys[positive]))))


def interior(window: CettWindow | None, eps: float) -> tuple[float, float]:
    """Around eps: d log(CETT) / d log(eps), and the share of neurons turning weak per log(eps)."""
    assert window is not None
    steps = window.steps()
    value, means = steps.contributions, steps.cett
    if len(value) < 2 or value[-1] <= value[0] or means[-1] <= means[0] or means[0] <= 0:
        return 1.0, 0.0
    width = math.log(value[-1] / value[0])
    return float((means[-1] / means[0]).log()) / width, window.walked / window.neurons / width
