"""The gated FFN: `FFN(x) = W_out [ sigma(W_gate x) * (W_in x) ]` (paper section 1).

One module computes it densely, and sparsely once `rule` is set: neurons that the rule calls weak
are left out. Here the sparse way is a mask, exact and slow; what counts as active is defined in
`kernels.activity`, once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from kernels.activity import Rule, out_norms

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
        self.rule: Rule | None = None
        """Which neurons are active; None: all, dense."""
        self.watcher: Callable[[Tensor, Tensor, Tensor], None] | None = None
        """Called in each forward with s, z (..., d_f) and the output (..., d_h)."""

    @classmethod
    def of(
        cls, w_gate: nn.Linear, w_in: nn.Linear, w_out: nn.Linear, sigma: Callable[[Tensor], Tensor]
    ) -> GatedFFN:
        """A gated FFN around another model's linear layers, which it shares.

        Raises:
            ValueError: the output layer has a bias, which belongs to no neuron.
        """
        if w_out.bias is not None:
            raise ValueError("its output layer has a bias")
        ffn = cls.__new__(cls)
        nn.Module.__init__(ffn)
        ffn.w_gate, ffn.w_in, ffn.w_out, ffn.sigma = w_gate, w_in, w_out, sigma
        ffn.rule, ffn.watcher = None, None
        return ffn

    def intermediate(self, x: Tensor) -> Tensor:
        """`sigma(W_gate x) * (W_in x)`: (..., d_h) -> (..., d_f)."""
        return self.sigma(self.w_gate(x)) * self.w_in(x)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_h) -> (..., d_h), sparse where a rule is set."""
        gate = self.sigma(self.w_gate(x))
        intermediate = gate * self.w_in(x)
        if self.rule is not None:
            active = self.rule.active(gate, intermediate, out_norms(self.w_out.weight))
            intermediate = torch.where(active, intermediate, 0)
        output = self.w_out(intermediate)
        if self.watcher is not None:
            self.watcher(gate, intermediate, output)
        return output
