"""Activation sparsity of a checkpoint by any metric: what counts, how much of it, how surely.

Thresholds and the CETT value come from one half of the validation set (the *choose* half);
activation ratios and losses that are reported come from the other half. Active neurons are counted
in the sparse run, with all layers sparse at once, as the paper's reference does: those that
contribute to what the model then computes, which is what a sparse kernel reads. Beside it stands
the count in the dense run, in which nothing before a layer was left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sparsing.actors.measuring.interval import ThresholdDraws, ratio_intervals
from sparsing.actors.measuring.search import Found, Probe
from sparsing.actors.models.sequences import Sequences
from sparsing.actors.models.subject import Subject
from sparsing.kernels.activity import Cett, Rule, contributing, out_norms

DEAD_FREQUENCY = 1e-3
"""A neuron active on fewer than 0.1 % of the tokens is dead (paper's repository)."""

Interval = tuple[float, float]


@dataclass(kw_only=True)
class DomainActivity:
    """What one domain's reporting half, or the mixture's, says about a checkpoint."""

    tokens: int
    frequency: list[np.ndarray]
    """Per layer: share of tokens on which each neuron is active, (d_f,) float64."""
    dense_run_ratios: list[float]
    """Per layer: mean share of active neurons, counted in the dense run."""
    zero_output_ratios: list[float]
    """Per layer: share of tokens whose FFN output is zero, in the dense run; their CETT is 0."""
    dense_loss: float
    sparse_loss: float
    interval: Interval
    """95 % interval of the mean over layers."""
    layer_intervals: list[Interval]
    """95 % interval of each layer's ratio."""

    @property
    def activation_ratios(self) -> list[float]:
        """Per layer: mean share of active neurons."""
        return [float(f.mean()) for f in self.frequency]

    @property
    def activation_ratio(self) -> float:
        """Mean over layers."""
        return float(np.mean(self.activation_ratios))

    @property
    def ppl_rise_percent(self) -> float:
        """Rise of perplexity by leaving out the weak neurons."""
        return 100 * math.expm1(self.sparse_loss - self.dense_loss)


@dataclass(kw_only=True)
class Measurement:
    """A checkpoint measured by one metric."""

    metric: str
    rules: list[Rule]
    """Which neurons of each layer are active."""
    cett: float | None
    """CETT value, where the metric has one."""
    parts: dict[str | None, DomainActivity]
    """By domain; under None the mixture, by the domains' weights."""
    vocabulary: dict[int, tuple[float, int]] = field(default_factory=dict)
    """Token id -> (mean activation ratio over its occurrences and layers, occurrences)."""

    @property
    def mixture(self) -> DomainActivity:
        """All domains, by their weights."""
        return self.parts[None]

    @property
    def thresholds(self) -> list[float | None]:
        """eps of each layer, on ||n_i|| (CETT) or |s_i| (FAT); None where the rule has none."""
        return [getattr(rule, "eps", None) for rule in self.rules]


def measure_at(
    probe: Probe, report: Sequences, found: Found, metric: str = "cett_ppl"
) -> Measurement:
    """Measure a checkpoint on the reporting half at a CETT value that was searched or given."""
    rules = [Cett(eps) for eps in probe.thresholds(found.cett)]
    drawn = probe.threshold_draws(found.cett, found.shifts)
    return measure_rules(probe.subject, report, rules, metric, cett=found.cett, drawn=drawn)


def measure_rules(
    subject: Subject,
    report: Sequences,
    rules: Sequence[Rule],
    metric: str,
    *,
    cett: float | None = None,
    drawn: ThresholdDraws | None = None,
) -> Measurement:
    """Measure a model on the reporting half, by a rule for each layer.

    Args:
        drawn: how the rules' thresholds vary with the choosing half, for the intervals; None:
            they are given, and only the reporting half varies.
    """
    dense, sparse = Activity(subject, report, rules), Activity(subject, report, rules)
    dense.losses = subject.losses(report, dense.visit)
    with subject.sparse(rules):
        sparse.losses = subject.losses(report, sparse.visit)
    parts: dict[str, DomainActivity] = {
        name: _domain_part(dense, sparse, drawn, index)
        for index, name in enumerate(report.domains)
        if report.domain_tokens[index]
    }
    named: dict[str | None, DomainActivity] = {**parts}  # type: ignore[dict-item]
    named[None] = _mixture(dense, sparse, drawn, parts)
    return Measurement(
        metric=metric,
        rules=list(rules),
        cett=cett,
        parts=named,
        vocabulary=sparse.vocabulary(subject.vocabulary_size),
    )


class Activity:
    """Counts active neurons while a forward streams by, dense or sparse by the same rules."""

    def __init__(self, subject: Subject, report: Sequences, rules: Sequence[Rule]) -> None:
        self.report = report
        self.rules = rules
        self.totals = [
            np.zeros((len(report.domains), ffn.w_out.in_features)) for ffn in subject.ffns
        ]
        """Per layer: tokens of each domain on which each neuron was active, (domains, d_f)."""
        self.shares = np.zeros((len(subject.ffns), len(report)))
        """Share of active neurons, summed over each sequence's tokens, (layers, n)."""
        self.zero_outputs = np.zeros((len(subject.ffns), len(report)), dtype=np.int64)
        """Tokens of each sequence whose FFN output is zero, (layers, n)."""
        self.losses = np.zeros(len(report))
        """Of each sequence in that forward, nats summed over its tokens, (n,)."""
        self._norms = [out_norms(ffn.w_out.weight) for ffn in subject.ffns]
        self._per_token = np.zeros(report.tokens[:, 1:].shape, dtype=np.float32)

    def visit(self, layer: int, batch: slice, gate: Tensor, z: Tensor, out: Tensor) -> None:
        """Count one layer of one forward; padding counts nowhere."""
        real = torch.from_numpy(self.report.counted[batch]).to(z.device)
        norms = self._norms[layer]
        active = self.rules[layer].active(gate, z, norms) & contributing(z, norms)
        active &= real.unsqueeze(-1)
        empty = (out == 0).all(-1) & real
        self.zero_outputs[layer, batch] = empty.sum(1).cpu().numpy()
        share = active.mean(-1, dtype=torch.float32).cpu().numpy()
        self.shares[layer, batch] = share.sum(1, dtype=np.float64)
        self._per_token[batch] += share
        counts = active.sum(1).double().cpu().numpy()
        np.add.at(self.totals[layer], self.report.domain[batch], counts)

    def frequency(self, domain: int) -> list[np.ndarray]:
        """Per layer: share of a domain's tokens on which each neuron was active."""
        tokens = self.report.domain_tokens[domain]
        return [total[domain] / tokens for total in self.totals]

    def vocabulary(self, size: int) -> dict[int, tuple[float, int]]:
        """Token id -> (mean activation ratio, occurrences), of all input tokens."""
        real = self.report.counted
        tokens = self.report.tokens[:, :-1][real]
        sums = np.bincount(tokens, self._per_token[real] / len(self.totals), minlength=size)
        count = np.bincount(tokens, minlength=size)
        return {int(t): (float(sums[t] / count[t]), int(count[t])) for t in count.nonzero()[0]}


def _domain_part(
    dense: Activity,
    sparse: Activity,
    drawn: ThresholdDraws | None,
    index: int,
) -> DomainActivity:
    report = sparse.report
    mine, tokens = report.domain == index, report.domain_tokens[index]
    layers, mean = ratio_intervals(report, sparse.shares, drawn, index)
    return DomainActivity(
        tokens=int(tokens),
        frequency=sparse.frequency(index),
        dense_run_ratios=(dense.shares[:, mine].sum(1) / tokens).tolist(),
        zero_output_ratios=(dense.zero_outputs[:, mine].sum(1) / tokens).tolist(),
        dense_loss=float(dense.losses[mine].sum() / tokens),
        sparse_loss=float(sparse.losses[mine].sum() / tokens),
        interval=mean,
        layer_intervals=[(float(low), float(high)) for low, high in layers],
    )


def _mixture(
    dense: Activity,
    sparse: Activity,
    drawn: ThresholdDraws | None,
    parts: dict[str, DomainActivity],
) -> DomainActivity:
    report = sparse.report
    share = dict(zip(report.domains, report.shares, strict=True))
    total = sum(share[name] for name in parts)
    layers, mean = ratio_intervals(report, sparse.shares, drawn, None)
    return DomainActivity(
        tokens=sum(part.tokens for part in parts.values()),
        frequency=[
            np.sum([share[n] / total * p.frequency[layer] for n, p in parts.items()], axis=0)
            for layer in range(len(sparse.totals))
        ],
        dense_run_ratios=[report.mean(share) for share in dense.shares],
        zero_output_ratios=[report.mean(share) for share in dense.zero_outputs],
        dense_loss=report.mean(dense.losses),
        sparse_loss=report.mean(sparse.losses),
        interval=mean,
        layer_intervals=[(float(low), float(high)) for low, high in layers],
    )
