"""CETT-PPL-p% of checkpoints: Algorithm 1 and the stabilizing strategy (paper, App. E).

The thresholds of every layer and the CETT value come from one half of the validation set (the
*choose* half); activation ratios and losses that are reported come from the other half.
Layer thresholds are found on a dense forward; then the model runs with all layers sparse at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from actors.data.prepare import PreparedData
from actors.evaluate import mean_loss
from actors.model import Transformer
from kernels.activity import CettCurve, active_neurons, out_norms
from kernels.ffn import GatedFFN

DEAD_FREQUENCY = 1e-3
"""A neuron active on fewer than 0.1 % of the tokens is dead (paper's repository)."""

SMALLEST_CETT = 1e-4
"""Where the search for the CETT value starts; below it next to nothing is left out."""

FIRST_CETT = 0.1
"""First guess of a cold search."""

BRACKET_STEP = 0.25
"""Step in log(CETT) while the bracket is grown around the guess."""

SMALLEST_RISE = 1e-6
"""Leaving out next to nothing can lower perplexity a little; below this a rise counts as none."""

FORWARD_TOKENS = 4096
"""Tokens per forward pass while measuring: with one layer's intermediates the memory bound."""


@dataclass(kw_only=True)
class DomainActivity:
    """What one domain's reporting half says about a checkpoint at its thresholds."""

    tokens: int
    frequency: list[np.ndarray]
    """Per layer: share of tokens on which each neuron is active, (d_f,) float64."""
    dense_loss: float
    sparse_loss: float

    @property
    def activation_ratios(self) -> list[float]:
        """Per layer: mean share of active neurons."""
        return [float(f.mean()) for f in self.frequency]


@dataclass(kw_only=True)
class Measurement:
    """A checkpoint measured at one CETT value."""

    cett: float
    thresholds: list[float]
    """eps of each layer."""
    domains: dict[str, DomainActivity]
    vocabulary: dict[int, tuple[float, int]] = field(default_factory=dict)
    """Token id -> (mean activation ratio over its occurrences and layers, occurrences)."""


@dataclass(kw_only=True)
class DenseProfile:
    """What one dense pass over the choosing half says about a checkpoint; small, worth keeping."""

    curves: list[CettCurve]
    """Each layer's CETT as a function of its threshold."""
    dense_loss: float


class CheckpointProbe:
    """A checkpoint's model, which can be made sparse at any CETT value.

    Without a profile from an earlier probe of the same checkpoint it makes one.
    """

    def __init__(
        self,
        model: Transformer,
        data: PreparedData,
        device: torch.device,
        profile: DenseProfile | None = None,
    ) -> None:
        self.model = model.to(device)
        self.data = data
        self.device = device
        self.ffns = [m for m in self.model.modules() if isinstance(m, GatedFFN)]
        self.profile = profile or self._dense_profile()

    def ppl_ratio(self, cett: float) -> float:
        """exp(sparse loss - dense loss) on the choosing half, with all layers sparse at once."""
        with self.sparse(self.thresholds(cett)):
            return math.exp(self._choosing_loss() - self.profile.dense_loss)

    def thresholds(self, cett: float) -> list[float]:
        """eps of each layer at which its CETT on the choosing half is `cett`."""
        return [curve.threshold(cett) for curve in self.profile.curves]

    @contextmanager
    def sparse(self, thresholds: list[float]) -> Iterator[None]:
        """Within it the model leaves out neurons below the thresholds, in every layer."""
        for ffn, threshold in zip(self.ffns, thresholds, strict=True):
            ffn.threshold = threshold
        try:
            yield
        finally:
            for ffn in self.ffns:
                ffn.threshold = None

    @contextmanager
    def watch(self, visit: Callable[[int, Tensor], None]) -> Iterator[None]:
        """Within it every forward calls `visit(layer, z)` with z (tokens, d_f), layer by layer."""
        hooks = [
            ffn.w_out.register_forward_pre_hook(
                lambda _, inputs, layer=layer: visit(layer, inputs[0].flatten(0, -2))
            )
            for layer, ffn in enumerate(self.ffns)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def loss(self, sequences: np.ndarray) -> float:
        """Mean loss of the model as it is now, dense or sparse."""
        batch = batch_sequences(sequences)
        return mean_loss(self.model, sequences, batch=batch, device=self.device)

    def _dense_profile(self) -> DenseProfile:
        curves = [CettCurve() for _ in self.ffns]
        with self.watch(lambda layer, z: curves[layer].update(z, self.ffns[layer].w_out.weight)):
            return DenseProfile(curves=curves, dense_loss=self._choosing_loss())

    def _choosing_loss(self) -> float:
        """Loss on the choosing half, domains by their weights in the mixture."""
        return sum(
            weight * self.loss(self.data.validation(domain, "choose"))
            for domain, weight in self.data.weights.items()
        )


def search_cett(
    probes: Iterable[CheckpointProbe], p_percent: float, guess: float | None = None
) -> float:
    """Algorithm 1: the CETT value at which the mean PPL ratio of the checkpoints is 1 + p %.

    The PPL ratio grows with CETT, and nearly as a power of it: the bracket is grown around the
    guess and the crossing found in log(CETT), to 1e-3 relative.

    Returns:
        The CETT value in [1e-4, 1]; 1 where even that raises perplexity by less than p %.
    """
    probes = list(probes)
    lowest, highest = math.log(SMALLEST_CETT), 0.0

    @cache
    def excess(log_cett: float) -> float:
        """log of the PPL rise over the wished one; increasing in CETT."""
        ratio = sum(p.ppl_ratio(math.exp(log_cett)) for p in probes) / len(probes)
        return math.log(max(ratio - 1, SMALLEST_RISE) / (p_percent / 100))

    low = high = math.log(guess or FIRST_CETT)
    while excess(low) >= 0 and low > lowest:
        low = max(lowest, low - BRACKET_STEP)
    while excess(high) < 0 and high < highest:
        high = min(highest, high + BRACKET_STEP)
    if excess(low) >= 0 or excess(high) <= 0:
        return math.exp(low if excess(low) >= 0 else high)
    return math.exp(brentq(excess, low, high, xtol=1e-3))


def measure_at(probe: CheckpointProbe, cett: float) -> Measurement:
    """Measure a checkpoint on the reporting half at a CETT value."""
    thresholds = probe.thresholds(cett)
    vocabulary_size = probe.model.config.vocabulary_size
    active_sum = np.zeros(vocabulary_size)
    count = np.zeros(vocabulary_size, dtype=np.int64)
    domains = {}
    for domain in probe.data.domains:
        sequences = probe.data.validation(domain, "report")
        activity = Activity(probe, thresholds)
        dense_loss = activity.run(sequences)
        with probe.sparse(thresholds):
            sparse_loss = probe.loss(sequences)
        tokens = sequences[:, :-1].ravel()
        active_sum += np.bincount(tokens, activity.per_token(), minlength=vocabulary_size)
        count += np.bincount(tokens, minlength=vocabulary_size)
        domains[domain] = DomainActivity(
            tokens=len(tokens),
            frequency=[total / len(tokens) for total in activity.totals],
            dense_loss=dense_loss,
            sparse_loss=sparse_loss,
        )
    vocabulary = {
        int(token): (float(active_sum[token] / count[token]), int(count[token]))
        for token in count.nonzero()[0]
    }
    return Measurement(cett=cett, thresholds=thresholds, domains=domains, vocabulary=vocabulary)


class Activity:
    """Counts active neurons on a dense forward, as the paper's reference does: on a sparse one
    the inputs of later layers would already be changed by what is left out before."""

    def __init__(self, probe: CheckpointProbe, thresholds: list[float]) -> None:
        self.probe = probe
        self.thresholds = thresholds
        self.totals = [np.zeros(ffn.w_out.in_features) for ffn in probe.ffns]
        """Per layer: tokens on which each neuron was active, (d_f,)."""
        self._norms = [out_norms(ffn.w_out.weight) for ffn in probe.ffns]
        self._ratios: list[np.ndarray] = []

    def run(self, sequences: np.ndarray) -> float:
        """Count over all sequences; returns their dense loss."""
        with self.probe.watch(self._visit):
            return self.probe.loss(sequences)

    def per_token(self) -> np.ndarray:
        """Each token's activation ratio, mean over layers, in the order of the sequences."""
        layers = len(self.totals)
        chunks = [self._ratios[i : i + layers] for i in range(0, len(self._ratios), layers)]
        return np.concatenate([np.mean(chunk, axis=0) for chunk in chunks])

    def _visit(self, layer: int, intermediate: Tensor) -> None:
        active = active_neurons(intermediate, self._norms[layer], self.thresholds[layer])
        self.totals[layer] += active.sum(0).cpu().numpy()
        self._ratios.append(active.float().mean(-1).cpu().numpy())


def batch_sequences(sequences: np.ndarray) -> int:
    """Sequences per forward, so that one holds about FORWARD_TOKENS tokens."""
    return max(1, FORWARD_TOKENS // (sequences.shape[1] - 1))
