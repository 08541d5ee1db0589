"""Pareto curves: perplexity against activation ratio for each way of choosing weak neurons (Fig 2).

Every way gets its parameter on the choosing half, so that its activation ratio comes near each
ratio of a common grid; ratios and losses that are reported come from the reporting half, with all
layers sparse at once, as in `measuring.measure`. The points of CETT are also the curves of
perplexity and ratio against CETT (Fig 15).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsing.actors.measuring.rows import COUNTED_IN
from sparsing.actors.measuring.search import Probe, interpolate
from sparsing.actors.models.sequences import Sequences
from sparsing.actors.models.subject import Subject
from sparsing.kernels.activity import (
    Cett,
    Fat,
    Rule,
    StraightforwardRelu,
    TopK,
    contributing,
    out_norms,
)
from sparsing.kernels.crossing import CettWindow

RATIOS = (0.02, 0.035, 0.06, 0.1, 0.17, 0.3, 0.5, 0.8)
"""The common grid of activation ratios: equal steps in log, about."""

BIN_BITS = 14
"""Gates are sorted into bins by their float32 without this many last bits: 0.2 % wide."""

LEAST_CETT = 0.01
"""Smallest CETT value of a point: below it the ratio hardly moves, and next to nothing is lost."""

CETT_POINTS = 200
"""CETT values at which the ratio is read off the pilot; between them it is interpolated."""


@dataclass(frozen=True, kw_only=True)
class ParetoPart:
    """A point as seen on one domain's reporting half, or the mixture's."""

    tokens: int
    activation_ratio: float
    """Mean over tokens and layers, counted in the sparse run."""
    dense_run_ratio: float
    """The same, counted in the dense run."""
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

    Costs, with r ratios on the grid: on the choosing half about 2.3 dense forwards and, for the
    points of CETT, r more products with W_out in every layer; on the reporting half one dense
    forward, and a sparse one for each point (at most 3 r + 1). With the default grid of 8 that is
    at most 29 forwards of one half.

    Args:
        subject: the model.
        choose: the half on which parameters are chosen.
        report: the half that is reported.
        ratios: wished activation ratios, in (0, 1). A way has no point at a ratio that it cannot
            reach: FAT and CETT never keep neurons whose gate is exactly zero.
    """
    ways = _ways(subject, choose, sorted(ratios))
    dense_loss, dense_active = _counted(subject, report, [way.rules for way in ways])
    for way, of_dense in zip(ways, dense_active, strict=True):
        with subject.sparse(way.rules):
            sparse_loss, [active] = _counted(subject, report, [way.rules])
        parts = _parts(report, active, of_dense, dense_loss, sparse_loss)
        yield ParetoPoint(metric=way.metric, parameter=way.parameter, parts=parts)


def _ways(subject: Subject, choose: Sequences, ratios: Sequence[float]) -> list[_Way]:
    layers, d_f = len(subject.ffns), subject.ffns[0].w_out.in_features

    def of_model(metric: str, parameter: float | None, rule: Rule) -> _Way:
        return _Way(metric=metric, parameter=parameter, rules=[rule] * layers)

    found = [of_model("relu", None, StraightforwardRelu())] if subject.gates_are_zero else []
    found += [of_model("topk", k, TopK(k)) for k in numbers_of_neurons(d_f, ratios)]
    found += [of_model("fat", eps, Fat(eps)) for eps in gate_thresholds(subject, choose, ratios)]
    for cett, thresholds in cett_thresholds(Probe(subject, choose), ratios):
        rules = [Cett(eps) for eps in thresholds]
        found.append(_Way(metric="cett", parameter=cett, rules=rules))
    return found


def numbers_of_neurons(d_f: int, ratios: Sequence[float]) -> list[int]:
    """The k of Top-k nearest to each ratio, each once."""
    return list(dict.fromkeys(max(1, round(ratio * d_f)) for ratio in ratios))


def gate_thresholds(subject: Subject, choose: Sequences, ratios: Sequence[float]) -> list[float]:
    """The eps of FAT nearest to each ratio that it can reach; one dense forward."""
    counts = np.zeros((len(choose.domains), 2 ** (31 - BIN_BITS)))

    def visit(_: int, batch: slice, gate: Tensor, __: Tensor, ___: Tensor) -> None:
        real = choose.counted[batch]
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
    # Bin 0 is zero gates, which no eps above 0 keeps.
    at_least = share[::-1].cumsum()[-2::-1]
    edges = (np.arange(1, counts.shape[1], dtype=np.int32) << BIN_BITS).view(np.float32)
    nearest = [int(np.abs(at_least - ratio).argmin()) for ratio in ratios if ratio <= at_least[0]]
    return [float(edges[index]) for index in dict.fromkeys(nearest)]


def cett_thresholds(probe: Probe, ratios: Sequence[float]) -> list[tuple[float, list[float]]]:
    """CETT values at about each ratio that CETT can reach, with the thresholds of the layers.

    A few tokens tell, roughly, the CETT value and the thresholds; one dense forward over all
    choosing sequences measures the CETT that these thresholds really have, and corrects them. On
    the quickstart's checkpoints they are then within 3 % of the exact crossings, and the CETT
    value within 1 % in the mean over layers. `Probe.thresholds`, which is exact, takes a forward
    and a walk for every value.
    """
    pilot = probe.profile.pilot
    cetts = np.array(_cett_values(probe, ratios))
    rough = [[interpolate(cett, means, sizes) for cett in cetts] for sizes, means in pilot]
    corrected = [
        _corrected(cetts, np.array(eps), np.array(reached), *curve)
        for eps, reached, curve in zip(rough, _cett_reached(probe, rough), pilot, strict=True)
    ]
    return [(float(cett), list(eps)) for cett, *eps in zip(cetts, *corrected, strict=True)]


def _corrected(
    cetts: np.ndarray, rough: np.ndarray, reached: np.ndarray, sizes: np.ndarray, means: np.ndarray
) -> list[float]:
    """A layer's thresholds on the pilot's staircase, scaled so that it meets what was reached."""
    known = np.flatnonzero((rough > 0) & (reached > 0))[::-1]  # by rising threshold
    if not len(known):
        return list(rough)
    scale = np.log(reached[known] / cetts[known])
    moved = means * np.exp(np.interp(np.log(sizes), np.log(rough[known]), scale))
    return [interpolate(cett, np.maximum.accumulate(moved), sizes) for cett in cetts]


def _cett_values(probe: Probe, ratios: Sequence[float]) -> list[float]:
    curves = list(zip(probe.profile.pilot, probe.profile.pilot_active, strict=True))
    cetts = np.geomspace(LEAST_CETT, 1, CETT_POINTS)[::-1]
    found = []
    for cett in cetts:
        thresholds = [interpolate(cett, means, sizes) for (sizes, means), _ in curves]
        layers = zip(thresholds, curves, strict=True)
        found.append(np.mean([interpolate(eps, sizes, a) for eps, ((sizes, _), a) in layers]))
    asked = [ratio for ratio in ratios if found[0] <= ratio <= found[-1]]
    return [interpolate(ratio, np.array(found), cetts) for ratio in asked]


def _cett_reached(probe: Probe, thresholds: list[list[float]]) -> list[list[float]]:
    """CETT of each layer at each of its thresholds, over all choosing tokens."""
    # Windows of no width: one masked product each, and no step to walk.
    windows = [[CettWindow(eps, eps) for eps in of_layer] for of_layer in thresholds]
    choose = probe.choose

    def visit(layer: int, batch: slice, _: Tensor, z: Tensor, out: Tensor) -> None:
        real = choose.counted[batch]
        weights = torch.from_numpy(real * choose.weights[batch, None]).to(z.device).flatten()
        owner = torch.zeros(len(weights), dtype=torch.long, device=z.device)
        w_out = probe.subject.ffns[layer].w_out.weight
        for window in windows[layer]:
            window.update(z.flatten(0, 1), out.flatten(0, 1), w_out, weights, owner)

    probe.subject.losses(choose, visit)
    return [[window.base for window in of_layer] for of_layer in windows]


def _counted(
    subject: Subject, report: Sequences, rules: Sequence[Sequence[Rule]]
) -> tuple[np.ndarray, np.ndarray]:
    """Losses of the sequences, (n,), and their active neurons' shares by rules, (ways, n).

    Both are sums over a sequence's tokens; the share is the mean over layers.
    """
    shares = torch.zeros((len(rules), len(report)), dtype=torch.float64, device=subject.device)
    norms = [out_norms(ffn.w_out.weight) for ffn in subject.ffns]

    def visit(layer: int, batch: slice, gate: Tensor, z: Tensor, _: Tensor) -> None:
        real = torch.from_numpy(report.counted[batch]).to(z.device).unsqueeze(-1)
        counts = contributing(z, norms[layer]) & real
        for way, of_layer in enumerate(rules):
            active = of_layer[layer].active(gate, z, norms[layer]) & counts
            shares[way, batch] += active.sum((1, 2)) / z.shape[-1]

    losses = subject.losses(report, visit)
    return losses, shares.cpu().numpy() / len(subject.ffns)


def _parts(
    report: Sequences,
    active: np.ndarray,
    dense_active: np.ndarray,
    dense: np.ndarray,
    sparse: np.ndarray,
) -> dict[str | None, ParetoPart]:
    found: dict[str | None, ParetoPart] = {
        None: ParetoPart(
            tokens=int(report.counts.sum()),
            activation_ratio=report.mean(active),
            dense_run_ratio=report.mean(dense_active),
            dense_loss=report.mean(dense),
            sparse_loss=report.mean(sparse),
        )
    }
    for index, domain in enumerate(report.domains):
        mine, tokens = report.domain == index, int(report.domain_tokens[index])
        if tokens:
            sums = (active, dense_active, dense, sparse)
            ratio, of_dense, dense_loss, sparse_loss = (
                float(each[mine].sum()) / tokens for each in sums
            )
            found[domain] = ParetoPart(
                tokens=tokens,
                activation_ratio=ratio,
                dense_run_ratio=of_dense,
                dense_loss=dense_loss,
                sparse_loss=sparse_loss,
            )
    return found


def pareto_rows(points: Iterable[ParetoPoint]) -> list[dict[str, Any]]:
    """Rows of the table `pareto`, without the checkpoint's step and tokens."""
    return [
        {
            "metric": point.metric,
            "parameter": point.parameter,
            "domain": domain,
            "activation_ratio": part.activation_ratio,
            "activation_ratio_dense_run": part.dense_run_ratio,
            "counted_in": COUNTED_IN,
            "dense_loss": part.dense_loss,
            "sparse_loss": part.sparse_loss,
            "ppl_rise_percent": part.ppl_rise_percent,
            "measured_tokens": part.tokens,
        }
        for point in points
        for domain, part in point.parts.items()
    ]
