"""The exact threshold of a CETT value: the first contribution at which the mean CETT passes it.

CETT of one token at the threshold eps: `||sum of n_i over ||n_i|| < eps|| / ||FFN(x)||`; of a
layer: the weighted mean over tokens. As a function of eps it is a staircase with a step at every
contribution of every token. `CettWindow` knows all steps between two thresholds: one masked
product gives each token's tail at the lower one, and from there the tail grows neuron by neuron,
in the order of their contributions. The rest of the staircase costs nothing.

A token whose FFN output is zero has nothing to truncate: its CETT is 0, and it is counted.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparsing.kernels.activity import at_least, contributions, out_norms
from sparsing.kernels.cpu.build import compiled
from sparsing.kernels.cpu.walk import walk_tails

WALKED_TOKENS = 512
"""Tokens whose tails are walked together; few enough that they stay in the processor's cache."""

MOST_STEPS = 2**23
"""Steps held at most; beyond them the window draws in around the crossing that is wanted."""

SMALLEST = torch.finfo(torch.float32).smallest_normal
"""Contributions below it are none."""


class CettWindow:
    """The CETT staircase of one layer between two thresholds, streamed over tokens.

    Holds one chunk of tokens and at most about `most_steps` steps, however many tokens come.

    Args:
        low: lower edge; CETT is exact at it and above. 0: from the beginning.
        high: upper edge; `inf`: to the end.
        wanted: CETT value around which the window draws in when there are too many steps.
        sequences: sequences (clusters) the tokens come from; the mean is also kept for each.
        most_steps: steps held at most.
    """

    def __init__(
        self,
        low: float = 0.0,
        high: float = math.inf,
        *,
        wanted: float = 0.0,
        sequences: int = 1,
        most_steps: int = MOST_STEPS,
    ) -> None:
        self.low, self.high, self.wanted = low, high, wanted
        self.most_steps = most_steps
        self.tokens = 0
        """Tokens seen, without padding."""
        self.zero_tokens = 0
        """Tokens among them whose FFN output is zero."""
        self.largest = 0.0
        """Largest contribution of all tokens."""
        self.neurons = 0
        """Tokens times neurons seen."""
        self.walked = 0
        """Steps walked: neurons added to tails."""
        self.weight = 0.0
        """Total weight of the tokens seen."""
        self._base = torch.zeros(sequences, dtype=torch.float64)
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []
        self._held = 0
        self._sorted: tuple[Tensor, Tensor, Tensor] | None = None

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
        self._sorted = None
        for rows in (weights > 0).nonzero().squeeze(1).split(WALKED_TOKENS):
            z, out = intermediate.index_select(0, rows), output.index_select(0, rows)
            weight, owner = weights[rows].double(), sequence[rows]
            self._take(z.float(), out.float(), columns, norms, weight, owner)
        if self._held > self.most_steps:
            self._draw_in()

    def _take(
        self, z: Tensor, out: Tensor, columns: Tensor, norms: Tensor, weight: Tensor, owner: Tensor
    ) -> None:
        sizes = contributions(z, norms)
        whole = torch.linalg.vector_norm(out, dim=-1)
        self.tokens += len(z)
        self.neurons += z.numel()
        self.zero_tokens += int((whole == 0).sum())
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
        part = (value[order], rises * scale[token], owner[token])
        self._parts.append(tuple(t.cpu() for t in part))  # type: ignore[arg-type]
        self._held += len(value)
        self.walked += len(value)

    def steps(self) -> tuple[Tensor, Tensor, Tensor]:
        """All steps in order: contribution, CETT once it is weak too, sequence; (n,) each."""
        if not self._parts:
            empty = torch.zeros(0, dtype=torch.float64)
            return empty.float(), empty, empty.long()
        if self._sorted is None:
            value, rise, owner = (torch.cat(column) for column in zip(*self._parts, strict=True))
            value, order = value.sort(stable=True)
            means = self.base + rise[order].cumsum(0) / self.weight
            self._sorted = value, means, owner[order]
        return self._sorted

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
        value, means, _ = self.steps()
        # Equal contributions become weak together: what counts is the mean after the last.
        last = torch.cat([value[1:] != value[:-1], torch.ones(1, dtype=torch.bool)])
        reached = (means[last] >= cett).nonzero()
        if len(value) and len(reached):
            return float(value[last][reached[0]])
        if self.high <= self.largest:
            return None
        return self.largest * (1 + 1e-6)

    def cett_of_sequences(self, eps: float) -> Tensor:
        """Sum of weight times CETT at eps over each sequence's tokens, (sequences,) float64.

        Exact for an eps in the window; over all sequences it sums to the mean times `weight`.
        """
        sums = self._base.clone()
        for value, rise, owner in self._parts:
            weak = ~at_least(value, eps)
            sums.index_add_(0, owner[weak], rise[weak])
        return sums

    def curve(self, points: int) -> tuple[Tensor, Tensor]:
        """The staircase at `points` of its steps, evenly by rank: contributions and CETT."""
        value, means, _ = self.steps()
        picked = torch.linspace(0, max(len(value) - 1, 0), min(points, len(value))).long()
        return value[picked], torch.cummax(means[picked], 0).values if len(picked) else means

    def _draw_in(self) -> None:
        """Keep the half of the steps around the wanted value; the lower ones go into the base."""
        value, means, _ = self.steps()
        middle = int(torch.searchsorted(torch.cummax(means, 0).values, self.wanted))
        half = len(value) // 2
        first = min(max(middle - half // 2, 0), len(value) - half)
        low = float(value[first]) if first else self.low
        high = float(value[first + half]) if first + half < len(value) else self.high
        self._base = self.cett_of_sequences(low)
        self.low, self.high = low, high
        kept = []
        for sizes, rise, owner in self._parts:
            inside = at_least(sizes, low) & ~at_least(sizes, high)
            kept.append((sizes[inside], rise[inside], owner[inside]))
        self._parts, self._held = kept, sum(len(sizes) for sizes, _, _ in kept)


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
