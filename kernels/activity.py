"""What counts as an active neuron, and the CETT of a threshold (paper section 1).

The output of neuron i for a token is the vector n_i = W_out[:, i] * z_i, with the intermediate
z_i = sigma(W_gate x)_i (W_in x)_i. A neuron is *weak* where ||n_i||_2 < eps and active otherwise.
This comparison is made in one place, `active_neurons`, in float32, both where thresholds are
searched and where they are applied.

CETT of one token: `||sum of its weak n_i|| / ||FFN(x)||`; of a layer: the mean over tokens. A
token whose FFN output is zero has nothing to truncate: its CETT is 0 by definition here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.optimize import brentq
from torch import Tensor


def out_norms(w_out: Tensor) -> Tensor:
    """Norms ||W_out[:, i]||_2 of the output columns: (d_h, d_f) -> (d_f,), float32."""
    return torch.linalg.vector_norm(w_out.float(), dim=0)


def contributions(intermediate: Tensor, norms: Tensor) -> Tensor:
    """||n_i||_2 = |z_i| ||W_out[:, i]||_2: (..., d_f) and (d_f,) -> (..., d_f), float32."""
    return intermediate.float().abs() * norms


def active_neurons(intermediate: Tensor, norms: Tensor, threshold: float) -> Tensor:
    """Which neurons are active, ||n_i|| >= eps: (..., d_f) -> bool (..., d_f)."""
    return contributions(intermediate, norms) >= threshold


class LayerContributions:
    """One layer's neuron contributions on some tokens, to find the threshold of a CETT value.

    Args:
        intermediate: z, (tokens, d_f), float32.
        w_out: W_out, (d_h, d_f), float32.
    """

    def __init__(self, intermediate: Tensor, w_out: Tensor) -> None:
        self.intermediate = intermediate
        self.w_out = w_out
        self.contributions = contributions(intermediate, out_norms(w_out))
        self._output_norms = torch.linalg.vector_norm(intermediate @ w_out.T, dim=-1)
        positive = self.contributions[self.contributions > 0]
        self.range = (float(positive.min()), float(positive.max())) if len(positive) else (0.0, 0.0)
        """Smallest and largest contribution that is not zero; (0, 0) where all are."""

    def cett(self, threshold: float) -> float:
        """Token-averaged CETT when neurons below `threshold` are left out; in [0, 1] or beyond."""
        weak = torch.where(self.contributions < threshold, self.intermediate, 0)
        tail_norms = torch.linalg.vector_norm(weak @ self.w_out.T, dim=-1)
        ratio = torch.where(self._output_norms > 0, tail_norms / self._output_norms, 0)
        return float(ratio.mean(dtype=torch.float64))

    def threshold(self, cett: float) -> float:
        """The eps whose token-averaged CETT is `cett`.

        CETT grows with eps in steps, one per contribution; the result lies within 1e-3 relative
        of the step that crosses `cett`. Targets below the first step give the smallest
        contribution (exact zeros are weak, everything else stays active), targets that even the
        largest contribution does not reach give a threshold above it (nothing is active).
        """
        low, high = self.range
        if high == 0.0 or self.cett(low) >= cett:
            return low
        high = high * (1 + 1e-6)
        if self.cett(high) <= cett:
            return high
        log_low, log_high = torch.tensor([low, high], dtype=torch.float64).log().tolist()
        return crossing(lambda log_eps: self.cett(torch.tensor(log_eps).exp().item()) - cett,
                        log_low, log_high, tolerance=1e-3)


def crossing(f: Callable[[float], float], low: float, high: float, *, tolerance: float) -> float:
    """exp of the log-value where the increasing `f` crosses zero between `low` and `high`."""
    return float(torch.tensor(brentq(f, low, high, xtol=tolerance), dtype=torch.float64).exp())
