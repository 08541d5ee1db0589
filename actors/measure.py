"""CETT-PPL-p% of checkpoints: Algorithm 1 and the stabilizing strategy (paper, App. E).

The thresholds of every layer and the CETT value come from one half of the validation set (the
*choose* half); activation ratios and losses that are reported come from the other half.
Layer thresholds are found on a dense forward; then the model runs with all layers sparse at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from actors.data.prepare import PreparedData
from actors.evaluate import mean_loss
from actors.model import Transformer
from kernels.activity import LayerContributions, active_neurons, crossing, out_norms

DEAD_FREQUENCY = 1e-3
"""A neuron active on fewer than 0.1 % of the tokens is dead (paper's repository)."""

SMALLEST_CETT = 1e-4
"""Where the search for the CETT value starts; below it next to nothing is left out."""

FORWARD_TOKENS = 8192
"""Tokens per forward pass while measuring."""


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


class CheckpointProbe:
    """A checkpoint's model with its dense activations on the choosing half, ready to be made
    sparse at any CETT value.

    Holds the intermediates of all layers: 2 x 4 bytes x layers x tokens x d_f.
    """

    def __init__(self, model: Transformer, data: PreparedData, device: torch.device) -> None:
        self.model = model.to(device)
        self.data = data
        self.device = device
        self._choose = np.concatenate([data.validation(d, "choose") for d in data.domains])
        self.ffns = [layer.ffn for layer in self.model.layers]
        with self._collect() as intermediates:
            self.dense_loss = self._mixture_loss()
        self._layers = [
            LayerContributions(torch.cat(parts), ffn.w_out.weight.float())
            for parts, ffn in zip(intermediates, self.ffns, strict=True)
        ]

    def ppl_ratio(self, cett: float) -> float:
        """exp(sparse loss - dense loss) on the choosing half, with all layers sparse at once."""
        with self.sparse(self.thresholds(cett)):
            return math.exp(self._mixture_loss() - self.dense_loss)

    def thresholds(self, cett: float) -> list[float]:
        """eps of each layer at which its CETT on the choosing half is `cett`."""
        return [layer.threshold(cett) for layer in self._layers]

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

    def loss(self, sequences: np.ndarray) -> float:
        """Mean loss of the model as it is now, dense or sparse."""
        batch = max(1, FORWARD_TOKENS // (sequences.shape[1] - 1))
        return mean_loss(self.model, sequences, batch=batch, device=self.device)

    def _mixture_loss(self) -> float:
        """Loss on the choosing half, domains by their weights in the mixture."""
        return sum(
            weight * self.loss(self.data.validation(domain, "choose"))
            for domain, weight in self.data.weights.items()
        )

    @contextmanager
    def _collect(self) -> Iterator[list[list[Tensor]]]:
        """Within it every forward appends each layer's intermediates, (tokens, d_f) float32."""
        collected: list[list[Tensor]] = [[] for _ in self.ffns]
        hooks = [
            ffn.w_out.register_forward_pre_hook(
                lambda _, inputs, parts=parts: parts.append(inputs[0].flatten(0, -2).float())
            )
            for ffn, parts in zip(self.ffns, collected, strict=True)
        ]
        try:
            yield collected
        finally:
            for hook in hooks:
                hook.remove()


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
    seen: dict[float, float] = {}

    def excess(log_cett: float) -> float:
        """log of the PPL rise over the wished one; increasing in CETT."""
        if log_cett not in seen:
            ratio = sum(p.ppl_ratio(math.exp(log_cett)) for p in probes) / len(probes)
            seen[log_cett] = math.log(max(ratio - 1, 1e-9) / (p_percent / 100))
        return seen[log_cett]

    lowest = math.log(SMALLEST_CETT)
    low = high = math.log(guess or 0.1)
    while excess(low) >= 0 and low > lowest:
        low = max(lowest, low - 0.3)
    high = max(high, low)
    while excess(high) < 0 and high < 0:
        high = min(0.0, high + 0.3)
    if excess(low) >= 0 or excess(high) <= 0:
        return math.exp(low if excess(low) >= 0 else high)
    low = max(x for x, y in seen.items() if y < 0)
    high = min(x for x, y in seen.items() if y >= 0 and x > low)
    return crossing(excess, low, high, tolerance=1e-3)


def measure_at(probe: CheckpointProbe, cett: float) -> Measurement:
    """Measure a checkpoint on the reporting half at a CETT value."""
    thresholds = probe.thresholds(cett)
    model_vocabulary = probe.model.config.vocabulary_size
    active_sum = np.zeros(model_vocabulary)
    count = np.zeros(model_vocabulary, dtype=np.int64)
    domains = {}
    for domain in probe.data.domains:
        sequences = probe.data.validation(domain, "report")
        dense_loss = probe.loss(sequences)
        frequency, per_token = _activity(probe, sequences, thresholds)
        with probe.sparse(thresholds):
            sparse_loss = probe.loss(sequences)
        tokens = sequences[:, :-1].ravel()
        active_sum += np.bincount(tokens, weights=per_token, minlength=model_vocabulary)
        count += np.bincount(tokens, minlength=model_vocabulary)
        domains[domain] = DomainActivity(
            tokens=len(tokens), frequency=frequency, dense_loss=dense_loss, sparse_loss=sparse_loss
        )
    vocabulary = {
        int(i): (float(active_sum[i] / count[i]), int(count[i])) for i in count.nonzero()[0]
    }
    return Measurement(cett=cett, thresholds=thresholds, domains=domains, vocabulary=vocabulary)


@torch.no_grad()
def _activity(
    probe: CheckpointProbe, sequences: np.ndarray, thresholds: list[float]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Activity on a *sparse* forward's inputs would hide what sparsity itself changes; as in the
    paper's reference it is counted on a dense forward.

    Returns:
        Per layer the frequency of each neuron, (d_f,); and per token the ratio over layers.
    """
    sums = [torch.zeros(ffn.w_out.in_features, dtype=torch.float64) for ffn in probe.ffns]
    per_token: list[Tensor] = []
    norms = [out_norms(ffn.w_out.weight) for ffn in probe.ffns]
    batch = max(1, FORWARD_TOKENS // (sequences.shape[1] - 1))
    for start in range(0, len(sequences), batch):
        part = torch.from_numpy(sequences[start : start + batch, :-1]).to(probe.device)
        with probe._collect() as intermediates:
            probe.model(part)
        ratio = torch.zeros(part.numel(), device=probe.device)
        for layer, parts in enumerate(intermediates):
            active = active_neurons(parts[0], norms[layer], thresholds[layer])
            sums[layer] += active.sum(0, dtype=torch.float64).cpu()
            ratio += active.float().mean(-1)
        per_token.append(ratio.cpu() / len(intermediates))
    tokens = sequences[:, :-1].size
    return [(s / tokens).numpy() for s in sums], torch.cat(per_token).double().numpy()
