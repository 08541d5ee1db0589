"""What counts as an active neuron, and the CETT of a threshold (paper section 1).

The output of neuron i for a token is the vector n_i = W_out[:, i] * z_i, with the intermediate
z_i = sigma(W_gate x)_i (W_in x)_i. A neuron is *weak* where ||n_i||_2 < eps and active otherwise.
This comparison is made in one place, `active_neurons`, in float32, both where thresholds are
searched and where they are applied.

CETT of one token: `||sum of its weak n_i|| / ||FFN(x)||`; of a layer: the mean over tokens. A
token whose FFN output is zero has nothing to truncate: its CETT is 0 by definition here.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

GRID = 10.0 ** np.linspace(-4, 0.5, 55)
"""Thresholds at which a CETT curve is known, in units of the first tokens' largest contribution:
twelve a decade, with room above for larger ones to come."""


def out_norms(w_out: Tensor) -> Tensor:
    """Norms ||W_out[:, i]||_2 of the output columns: (d_h, d_f) -> (d_f,), float32."""
    return torch.linalg.vector_norm(w_out.float(), dim=0)


def contributions(intermediate: Tensor, norms: Tensor) -> Tensor:
    """||n_i||_2 = |z_i| ||W_out[:, i]||_2: (..., d_f) and (d_f,) -> (..., d_f), float32."""
    return intermediate.float().abs() * norms


def active_neurons(intermediate: Tensor, norms: Tensor, threshold: float) -> Tensor:
    """Which neurons are active, ||n_i|| >= eps: (..., d_f) -> bool (..., d_f)."""
    return contributions(intermediate, norms) >= threshold


class CettCurve:
    """One layer's CETT as a function of its threshold, streamed over tokens.

    The token-averaged CETT is accumulated at the thresholds of `GRID` and interpolated between
    them (monotone, in log-log). Memory is that of one chunk of tokens.
    """

    def __init__(self) -> None:
        self.tokens = 0
        """Tokens seen."""
        self.smallest = float("inf")
        """Smallest contribution that is not zero."""
        self.largest = 0.0
        """Largest contribution."""
        self._grid: np.ndarray | None = None
        self._sums = np.zeros(len(GRID))

    def update(self, intermediate: Tensor, w_out: Tensor) -> None:
        """Take in some tokens: z, (tokens, d_f), and the layer's W_out, (d_h, d_f)."""
        intermediate, w_out = intermediate.float(), w_out.float()
        sizes = contributions(intermediate, out_norms(w_out))
        self.tokens += len(intermediate)
        self.largest = max(self.largest, float(sizes.max()))
        positive = torch.where(sizes > 0, sizes, torch.inf)
        self.smallest = min(self.smallest, float(positive.min()))
        if self.largest == 0:
            return
        if self._grid is None:
            self._grid = self.largest * GRID
        whole = torch.linalg.vector_norm(intermediate @ w_out.T, dim=-1)
        for index, threshold in enumerate(self._grid):
            weak = torch.where(sizes < float(threshold), intermediate, 0)
            tail = torch.linalg.vector_norm(weak @ w_out.T, dim=-1)
            ratios = torch.where(whole > 0, tail / whole, 0)
            self._sums[index] += float(ratios.sum(dtype=torch.float64))

    def threshold(self, cett: float) -> float:
        """The eps at which the token-averaged CETT is `cett`.

        Below the grid it is the smallest contribution (only exact zeros are weak), beyond what
        leaving everything out reaches it lies above the largest (nothing is active). A layer
        whose neurons never contributed has the threshold 0.
        """
        if self._grid is None:
            return 0.0
        means = np.maximum.accumulate(self._sums / self.tokens)
        if cett < means[0]:
            return self.smallest
        rising = np.flatnonzero(np.diff(means, prepend=0) > 0)
        if cett >= means[-1] or len(rising) < 2:
            return self.largest * (1 + 1e-6)
        if cett < means[rising[0]]:
            return self.smallest
        curve = PchipInterpolator(np.log(means[rising]), np.log(self._grid[rising]))
        return float(np.exp(curve(np.log(cett))))
