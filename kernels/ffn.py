"""The gated FFN: `FFN(x) = W_out [ sigma(W_gate x) * (W_in x) ]` (paper section 1).

One module computes it densely, and sparsely once `threshold` is set: neurons whose output vector
n_i has a norm below the threshold are left out (CETT). Here the sparse way is a mask, exact and
slow; what counts as active is defined in `kernels.activity`, once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from kernels.activity import active_neurons, out_norms

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "silu": functional.silu,
    "relu2": lambda x: functional.relu(x).square(),
    "gelu": functional.gelu,
}


class GatedFFN(nn.Module):
    """Gated FFN with hidden size `d_h`, intermediate size `d_f` and a named activation.

    Weights: `w_gate`, `w_in` (d_f, d_h); `w_out` (d_h, d_f). No biases.
    """

    def __init__(self, d_h: int, d_f: int, activation: str) -> None:
        super().__init__()
        self.w_gate = nn.Linear(d_h, d_f, bias=False)
        self.w_in = nn.Linear(d_h, d_f, bias=False)
        self.w_out = nn.Linear(d_f, d_h, bias=False)
        self.sigma = ACTIVATIONS[activation]
        self.threshold: float | None = None
        """eps on ||n_i||, or None: dense."""

    def intermediate(self, x: Tensor) -> Tensor:
        """`sigma(W_gate x) * (W_in x)`: (..., d_h) -> (..., d_f)."""
        return self.sigma(self.w_gate(x)) * self.w_in(x)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_h) -> (..., d_h), sparse where a threshold is set."""
        intermediate = self.intermediate(x)
        if self.threshold is not None:
            active = active_neurons(intermediate, out_norms(self.w_out.weight), self.threshold)
            intermediate = torch.where(active, intermediate, 0)
        return self.w_out(intermediate)
