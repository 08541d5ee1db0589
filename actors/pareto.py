"""Pareto curves: perplexity against activation ratio for each way of choosing weak neurons (Fig 2).

Every way gets its parameter on the choosing half, so that its activation ratio comes near each
ratio of a common grid; ratios and losses that are reported come from the reporting half, with
active neurons counted on a dense forward and the loss taken with all layers sparse at once, as in
`actors.measure`. The points of CETT are also the curves of perplexity and ratio against CETT
(Fig 15).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from actors.measure_model import Subject
from actors.measure_search import LOWEST_CETT, Probe, interpolate
from actors.measure_tokens import PADDING, Sequences
from kernels.activity import Cett, Fat, Rule, StraightforwardRelu, TopK, out_norms

RATIOS = (0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.16, 0.24, 0.32, 0.48, 0.64, 0.8)
"""The common grid of activation ratios: equal steps in log, about."""

BIN_BITS = 14
"""Gates are sorted into bins by their float32 without this many last bits: 0.2 % wide."""

CETT_POINTS = 200
"""CETT values at which the ratio is read off the pilot; between them it is interpolated."""


@dataclass(frozen=True, kw_only=True)
class ParetoPart:
    """A point as seen on one domain's reporting half, or the mixture's."""

    tokens: int
    activation_ratio: float
    """Mean over tokens and layers."""
    dense_loss: float
    sparse_loss: float
    """Nats per token, with all layers sparse at once."""

    @property
    def ppl_rise_percent(self) -> float:
        """Rise of perplexity by leaving out the weak neurons."""
        return 100 * math.expm1(self.sparse_loss - self.dense_loss)


@dataclass(frozen=True, kw_only=True)
class ParetoPoint:
    """One way of choosing weak neurons, with one value of its parameter."""

    metric: str
    """`relu`, `topk`, `fat` or `cett`."""
    parameter: float | None
    """k of Top-k, eps of FAT, the CETT value of CETT; None for straightforward ReLU."""
    parts: dict[str | None, ParetoPart]
    """By domain; under None the mixture, by the domains' weights."""

    @property
    def mixture(self) -> ParetoPart:
        """All domains, by their weights."""
        return self.parts[None]


@dataclass(frozen=True, kw_only=True)
class _Way:
    """A point before it is measured: its name, parameter, and the rule of each layer."""

    metric: str
    parameter: float | None
    rules: Sequence[Rule]


def pareto(
    subject: Subject, choose: Sequences, report: Sequences, ratios: Sequence[float] = RATIOS
) -> Iterator[ParetoPoint]:
    """Points of the Pareto curves of a model, one after the other, each way's by rising ratio.

    Costs, with r ratios on the grid: on the choosing half 1.25 dense forwards and one more for
    each point of CETT; on the reporting half one dense forward, and a sparse one for each point
    (up to 3 r + 1). With the default grid of 12: at most 50 forwards of one half each.

    Args:
        subject: the model.
        choose: the half on which parameters are chosen.
        report: the half that is reported.
        ratios: wished activation ratios, in (0, 1). A way has no point at a ratio that it cannot
            reach: FAT and CETT never keep neurons whose gate is exactly zero.
    """
    ways = _ways(subject, choose, ratios)
    dense, active = _dense(subject, report, [way.rules for way in ways])
    for way, share in zip(ways, active, strict=True):
        with subject.sparse(way.rules):
            sparse = subject.losses(report)
        parts = _parts(report, share, dense, sparse)
        yield ParetoPoint(metric=way.metric, parameter=way.parameter, parts=parts)


def _ways(subject: Subject, choose: Sequences, ratios: Sequence[float]) -> list[_Way]:
    layers, d_f = len(subject.ffns), subject.ffns[0].w_out.in_features
    probe = Probe(subject, choose)

    def of_model(metric: str, parameter: float | None, rule: Rule) -> _Way:
        return _Way(metric=metric, parameter=parameter, rules=[rule] * layers)

    found = [of_model("relu", None, StraightforwardRelu())] if _gates_are_zero(subject) else []
    found += [of_model("topk", k, TopK(k)) for k in numbers_of_neurons(d_f, ratios)]
    found += [of_model("fat", eps, Fat(eps)) for eps in gate_thresholds(subject, choose, ratios)]
    for cett in cett_values(probe, ratios):
        rules = [Cett(eps) for eps in probe.thresholds(cett)]
        found.append(_Way(metric="cett", parameter=cett, rules=rules))
    return found


def _gates_are_zero(subject: Subject) -> bool:
    """Whether the activation function turns negative gates into exact zeros."""
    return all(not ffn.sigma(torch.tensor(-1.0)) for ffn in subject.ffns)


def numbers_of_neurons(d_f: int, ratios: Sequence[float]) -> list[int]:
    """The k of Top-k nearest to each ratio, each once."""
    return list(dict.fromkeys(max(1, round(ratio * d_f)) for ratio in ratios))


def gate_thresholds(subject: Subject, choose: Sequences, ratios: Sequence[float]) -> list[float]:
    """The eps of FAT nearest to each ratio that it can reach; one dense forward."""
    counts = np.zeros((len(choose.domains), 2 ** (31 - BIN_BITS)))

    def visit(_: int, batch: slice, gate: Tensor, __: Tensor, ___: Tensor) -> None:
        real = choose.tokens[batch, 1:] != PADDING
        for domain in np.unique(choose.domain[batch]):
            mine = real & (choose.domain[batch] == domain)[:, None]
            sizes = gate[torch.from_numpy(mine).to(gate.device)].float().abs()
            # Without the sign, floats are in the order of their bits.
            bins = sizes.view(torch.int32).flatten() >> BIN_BITS
            counts[domain] += torch.bincount(bins, minlength=counts.shape[1]).cpu().numpy()

    subject.losses(choose, visit)
    totals = counts.sum(1, keepdims=True)
    weights = np.where(totals[:, 0] > 0, choose.shares, 0)
    share = weights / weights.sum() @ (counts / np.maximum(totals, 1))
    at_least = share[::-1].cumsum()[::-1]
    # Bin 0 is zero gates, which no eps above 0 keeps.
    edges = (np.arange(counts.shape[1], dtype=np.int32) << BIN_BITS).view(np.float32)[1:]
    nearest = [
        int(np.abs(at_least[1:] - ratio).argmin()) for ratio in ratios if ratio <= at_least[1]
    ]
    return [float(edges[index]) for index in dict.fromkeys(nearest)]


def cett_values(probe: Probe, ratios: Sequence[float]) -> list[float]:
    """The CETT value at about each ratio that it can reach, from a few of the choosing tokens."""
    curves = list(zip(probe.profile.pilot, probe.profile.pilot_active, strict=True))
    cetts = np.geomspace(LOWEST_CETT, 1, CETT_POINTS)[::-1]
    reached = np.array(
        [
            np.mean(
                [
                    interpolate(interpolate(cett, means, sizes), sizes, active)
                    for (sizes, means), active in curves
                ]
            )
            for cett in cetts
        ]
    )
    asked = [ratio for ratio in ratios if reached[0] <= ratio <= reached[-1]]
    return [interpolate(ratio, reached, cetts) for ratio in asked]


def _dense(
    subject: Subject, report: Sequences, rules: Sequence[Sequence[Rule]]
) -> tuple[np.ndarray, np.ndarray]:
    """Dense losses of the sequences, (n,), and their active neurons' shares, (ways, n).

    Both are sums over a sequence's tokens; the share is the mean over layers.
    """
    shares = torch.zeros((len(rules), len(report)), dtype=torch.float64, device=subject.device)
    norms = [out_norms(ffn.w_out.weight) for ffn in subject.ffns]

    def visit(layer: int, batch: slice, gate: Tensor, z: Tensor, _: Tensor) -> None:
        real = torch.from_numpy(report.tokens[batch, 1:] != PADDING).to(z.device).unsqueeze(-1)
        for way, of_layer in enumerate(rules):
            active = of_layer[layer].active(gate, z, norms[layer]) & real
            shares[way, batch] += active.sum((1, 2)) / z.shape[-1]

    dense = subject.losses(report, visit)
    return dense, shares.cpu().numpy() / len(subject.ffns)


def _parts(
    report: Sequences, active: np.ndarray, dense: np.ndarray, sparse: np.ndarray
) -> dict[str | None, ParetoPart]:
    found: dict[str | None, ParetoPart] = {
        None: ParetoPart(
            tokens=int(report.counts.sum()),
            activation_ratio=report.mean(active),
            dense_loss=report.mean(dense),
            sparse_loss=report.mean(sparse),
        )
    }
    for index, domain in enumerate(report.domains):
        mine, tokens = report.domain == index, int(report.domain_tokens[index])
        if tokens:
            sums = (float(each[mine].sum()) / tokens for each in (active, dense, sparse))
            ratio, dense_loss, sparse_loss = sums
            found[domain] = ParetoPart(
                tokens=tokens,
                activation_ratio=ratio,
                dense_loss=dense_loss,
                sparse_loss=sparse_loss,
            )
    return found
