"""The threshold of a CETT value: the first contribution at which the mean CETT passes it.

CETT of one token at the threshold eps: `||sum of n_i over ||n_i|| < eps|| / ||FFN(x)||`; of a
layer: the weighted mean over tokens. As a function of eps it is a staircase with a step at every
contribution of every token. `CettWindow` knows it between two thresholds: one masked product gives
each token's tail at the lower one, and from there the tail grows neuron by neuron, in the order of
their contributions. Steps are added up in bins of contributions that differ by less than
2^-15 of themselves, so that memory depends neither on the tokens nor on the neurons.

A token whose FFN output is zero has nothing to truncate: its CETT is 0, and counts in the mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsing.kernels.activity import at_least, contributions, out_norms
from sparsing.kernels.cpu.build import compiled
from sparsing.kernels.cpu.walk import walk_tails

WALKED_TOKENS = 512
"""Tokens whose tails are walked together; few enough that they stay in the processor's cache."""

FINE_BITS = 7
"""Last bits of a float32 that a bin leaves out: contributions in it differ by 2^-16 at most."""

MOST_BINS = 2**17
"""Bins of a window; where it is too wide for them, they are coarser."""

PARTS = 16
"""Parts of a window for which the sums of each sequence are known."""

SMALLEST = torch.finfo(torch.float32).smallest_normal
"""Contributions below it are none."""


@dataclass(frozen=True)
class Steps:
    """A staircase, bin by bin, in order of contributions."""

    contributions: Tensor
    """Smallest contribution in the bin, (bins,) float32."""
    cett: Tensor
    """Mean CETT once all in the bin are weak too, (bins,) float64."""
    active: Tensor
    """Contributions in the window from this bin on, (bins,) int64."""


class CettWindow:
    """The CETT staircase of one layer between two thresholds, streamed over tokens.

    Args:
        low: lower edge; CETT is exact at it and above. 0: from the beginning.
        high: upper edge; `inf`: to the end.
        sequences: sequences (clusters) the tokens come from; the mean is also kept for each.
    """

    def __init__(self, low: float = 0.0, high: float = math.inf, *, sequences: int = 1) -> None:
        self.low, self.high = low, high
        self.tokens = 0
        """Tokens seen, without padding."""
        self.largest = 0.0
        """Largest contribution of all tokens."""
        self.neurons = 0
        """Tokens times neurons seen."""
        self.walked = 0
        """Steps walked: neurons added to tails."""
        self.weight = 0.0
        """Total weight of the tokens seen."""
        first, last = (_bits(edge) for edge in (max(low, SMALLEST), high))
        self.shift = FINE_BITS
        while (last >> self.shift) - (first >> self.shift) >= MOST_BINS:
            self.shift += 1
        self._first = first >> self.shift
        bins = max((last >> self.shift) - self._first + 1, 1)
        self._base = torch.zeros(sequences, dtype=torch.float64)
        self._rises = torch.zeros(bins, dtype=torch.float64)
        self._counts = torch.zeros(bins, dtype=torch.int64)
        self._smallest = torch.full((bins,), torch.inf)
        self._per_part = math.ceil(bins / PARTS)
        self._parts = torch.zeros(PARTS * sequences, dtype=torch.float64)
        self._steps: Steps | None = None

    @property
    def fine(self) -> bool:
        """Whether its bins are as narrow as they get: a crossing is then exact to 2^-16."""
        return self.shift == FINE_BITS

    @torch.no_grad()
    def update(
        self,
        intermediate: Tensor,
        output: Tensor,
        w_out: Tensor,
        weights: Tensor,
        sequence: Tensor,
    ) -> None:
        """Take in some tokens.

        Args:
            intermediate: z, (tokens, d_f).
            output: FFN(x), (tokens, d_h).
            w_out: (d_h, d_f).
            weights: weight of each token in the mean, (tokens,); 0: padding, which is not seen.
            sequence: the sequence of each token, (tokens,) int64.
        """
        columns, norms = w_out.float().T.contiguous(), out_norms(w_out)
        self._steps = None
        for rows in (weights > 0).nonzero().squeeze(1).split(WALKED_TOKENS):
            z, out = intermediate.index_select(0, rows), output.index_select(0, rows)
            weight, owner = weights[rows].double(), sequence[rows]
            self._take(z.float(), out.float(), columns, norms, weight, owner)

    def _take(
        self, z: Tensor, out: Tensor, columns: Tensor, norms: Tensor, weight: Tensor, owner: Tensor
    ) -> None:
        sizes = contributions(z, norms)
        whole = torch.linalg.vector_norm(out, dim=-1)
        self.tokens += len(z)
        self.neurons += z.numel()
        self.weight += float(weight.sum())
        self.largest = max(self.largest, float(sizes.max()))
        above = at_least(sizes, max(self.low, SMALLEST))
        tails = torch.where(above, 0, z) @ columns
        scale = torch.where(whole > 0, weight / whole.double(), 0)
        base = torch.linalg.vector_norm(tails, dim=-1).double() * scale
        self._base.index_add_(0, owner.cpu(), base.cpu())
        inside = above if self.high == math.inf else above & ~at_least(sizes, self.high)
        token, neuron = inside.nonzero(as_tuple=True)
        value = sizes[token, neuron]
        rises, order = walk(tails, token, neuron, value, z, columns)
        token = token[order]
        # On the processor, where sums are in the same order at every call.
        self._add(value[order].cpu(), (rises * scale[token]).cpu(), owner[token].cpu())

    def _add(self, value: Tensor, rises: Tensor, owner: Tensor) -> None:
        bins = (value.view(torch.int32) >> self.shift).long() - self._first
        self._rises.index_add_(0, bins, rises)
        self._counts.index_add_(0, bins, torch.ones_like(bins))
        self._smallest.scatter_reduce_(0, bins, value, "amin")
        place = bins // self._per_part * len(self._base) + owner
        self._parts.index_add_(0, place, rises)
        self.walked += len(value)

    def steps(self) -> Steps:
        """All steps in order."""
        if self._steps is None:
            taken = self._counts > 0
            after = self._counts.sum() - self._counts.cumsum(0) + self._counts
            means = self.base + self._rises.cumsum(0) / max(self.weight, 1e-300)
            self._steps = Steps(self._smallest[taken], means[taken], after[taken])
        return self._steps

    @property
    def base(self) -> float:
        """CETT at the lower edge."""
        return float(self._base.sum()) / self.weight if self.weight else 0.0

    def crossing(self, cett: float) -> float | None:
        """The eps of a CETT value: the first contribution that would make the mean reach it.

        Neurons from it on are active, so that CETT stays below the value. Where leaving out
        everything does not reach the value, or nothing contributes, it lies above the largest
        contribution (nothing is active).

        Returns:
            None if the crossing lies outside the window.
        """
        if self.largest == 0:
            return SMALLEST
        if self.base >= cett:
            return None
        steps = self.steps()
        reached = (steps.cett >= cett).nonzero()
        if len(reached):
            return float(steps.contributions[reached[0]])
        if self.high <= self.largest:
            return None
        return self.largest * (1 + 1e-6)

    def cett_of_sequences(self, eps: float) -> Tensor:
        """Sum of weight times CETT at eps over each sequence's tokens, (sequences,) float64.

        Over all sequences it is exact at a step in the window; of one sequence it is so at the
        edges of `PARTS` parts of the window, and between them goes as the whole does.
        """
        before = min(max((_bits(eps) >> self.shift) - self._first, 0), len(self._rises))
        part, within = divmod(before, self._per_part)
        parts = self._parts.view(PARTS, -1)
        sums = self._base + parts[:part].sum(0)
        if within and part < PARTS:
            start = part * self._per_part
            whole = self._rises[start : start + self._per_part].sum()
            share = self._rises[start:before].sum() / whole if whole > 0 else 0.0
            sums = sums + parts[part] * share
        return sums

    def curve(self, points: int) -> Steps:
        """The staircase at up to `points` of its steps, evenly by rank, its CETT never falling."""
        steps = self.steps()
        if not len(steps.active):
            return steps
        ranks = steps.active[0] - steps.active
        wanted = torch.linspace(0, float(ranks[-1]), min(points, len(ranks)))
        picked = torch.searchsorted(ranks, wanted.long()).unique()
        rising = torch.cummax(steps.cett, 0).values
        return Steps(steps.contributions[picked], rising[picked], steps.active[picked])


def _bits(value: float) -> int:
    """A positive float's bits as float32: in the order of the floats."""
    return int(torch.tensor(value, dtype=torch.float32).view(torch.int32))


def walk(
    tails: Tensor, token: Tensor, neuron: Tensor, value: Tensor, z: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """Add neurons to their token's tail, smallest first, and note how its norm changes.

    Args:
        tails: each token's tail vector before, (tokens, d_h).
        token, neuron, value: the contributions to add, (n,) each.
        z: intermediates, (tokens, d_f).
        columns: W_out transposed, (d_f, d_h).

    Returns:
        The change of ||tail||, (n,) float64, and the order of the contributions it is in.
    """
    if tails.device.type == "cpu" and compiled() is not None:
        order = _by_token_and_size(token, value)
        token, neuron = token[order], neuron[order]
        starts = torch.searchsorted(token, torch.arange(len(tails) + 1))
        return walk_tails(tails, starts, neuron, z[token, neuron], columns), order
    return _walk_all(tails, token, neuron, value, z, columns)


def _by_token_and_size(token: Tensor, value: Tensor) -> Tensor:
    """One sort by both: the bits of positive floats are ordered as the floats are."""
    return ((token << 32) | value.view(torch.int32)).argsort()


def _walk_all(
    tails: Tensor, token: Tensor, neuron: Tensor, value: Tensor, z: Tensor, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """`walk` with torch: all tokens go one step, then all go the next."""
    counts = torch.bincount(token, minlength=len(tails))
    # Tokens by their counts, so that those still walked in a step are the first.
    by_count = counts.argsort(descending=True)
    place = torch.empty_like(by_count)
    place[by_count] = torch.arange(len(tails), device=tails.device)
    order = _by_token_and_size(place[token], value)
    column = place[token[order]]
    starts = counts[by_count].cumsum(0) - counts[by_count]
    rank = torch.arange(len(token), device=tails.device) - starts[column]
    widths = torch.bincount(rank)
    begins = widths.cumsum(0) - widths
    stepwise = torch.empty_like(order)
    stepwise[begins[rank] + column] = order
    at, amounts = neuron[stepwise], z[token[stepwise], neuron[stepwise]].unsqueeze(-1)
    tail, added = tails[by_count], torch.empty_like(tails)
    norms = torch.empty(len(tails) + len(token), device=tails.device)
    torch.linalg.vector_norm(tail, dim=-1, out=norms[: len(tails)])
    walked = norms[len(tails) :]
    start = 0
    for width in widths.tolist():
        step = slice(start, start + width)
        # Into the same memory: a new vector per step would be a clone per step.
        torch.index_select(columns, 0, at[step], out=added[:width])
        tail[:width].addcmul_(added[:width], amounts[step])
        torch.linalg.vector_norm(tail[:width], dim=-1, out=walked[step])
        start += width
    before = torch.where(rank > 0, begins[rank - 1] + len(tails), 0) + column
    rises = walked[begins[rank] + column].double() - norms[before].double()
    return rises, order
