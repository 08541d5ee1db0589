"""The gated FFN: `FFN(x) = W_out [ sigma(W_gate x) * (W_in x) ]` (paper section 1).

One module computes it in four ways, by the same weights:

    ffn(x)              dense
    ffn.rule = rule     masked: all is computed, weak neurons count as 0; any rule, to measure
    ffn.use_exact(rule) exact: the gate of all neurons, then only the active ones; fast
    ffn(x, neurons)     given: only the neurons of a list or mask

What counts as active is defined in `sparsing.kernels.activity`, once.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sparsing.kernels.activations import ACTIVATIONS, name_of
from sparsing.kernels.activity import Cett, Rule, StraightforwardRelu, out_norms
from sparsing.kernels.crossover import decode_pays, may_pay, measured, tiles_may_pay
from sparsing.kernels.ops import (
    active_output,
    decode_output,
    dense_output,
    linear,
    neuron_outputs,
    neuron_products,
    packed,
    quickly,
    recorded,
)
from sparsing.kernels.thresholds import NeuronThresholds, neuron_thresholds
from sparsing.kernels.tiled import gate_products, tiled_output
from sparsing.registry import ACTIVATIONS as ENTRIES

log = logging.getLogger(__name__)


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
        self._start_dense()

    def _start_dense(self) -> None:
        self.rule: Rule | None = None
        """Which neurons are active, by mask; None: all, dense."""
        self.watcher: Callable[[Tensor, Tensor, Tensor], None] | None = None
        """Called in each dense or masked forward with s, z (..., d_f) and the output (..., d_h)."""
        self.exact = False
        """Whether weak neurons are left out (`use_exact`)."""
        self.activation: str | None = None
        """What sigma is to the kernels of GPUs; None where they do not know it."""
        self.thresholds: Tensor | None
        self.register_buffer("thresholds", None, persistent=False)

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
        ffn._start_dense()
        return ffn

    def pack(self) -> None:
        """Store W_out with each neuron's weights together, once; `exact` and `given` need it.

        Shape and values of `w_out.weight` stay, its strides become (1, d_h).

        Raises:
            ValueError: a layer has a bias, which dense and sparse would not share.
        """
        if any(layer.bias is not None for layer in (self.w_gate, self.w_in, self.w_out)):
            raise ValueError("only a gated FFN without biases computes sparsely")
        self.w_out.weight.data = packed(self.w_out.weight.data)

    def use_exact(self, rule: Rule | None = None) -> None:
        """From now on leave weak neurons out: those whose gate is 0, or that a rule calls weak.

        Args:
            rule: `NeuronThresholds` (of a file that `sparsing measure --thresholds` wrote) or
                `Cett`; None or `StraightforwardRelu`: exact zeros of the gate, nothing lost.

        Raises:
            ValueError: the rule cannot be told neuron by neuron, or a layer has a bias.
        """
        if isinstance(rule, Cett):
            rule = NeuronThresholds(neuron_thresholds(rule.eps, out_norms(self.w_out.weight)))
        if not isinstance(rule, NeuronThresholds | StraightforwardRelu | None):
            raise ValueError(f"{rule} has no thresholds of neurons; set ffn.rule to mask by it")
        self.pack()
        self.thresholds = None
        if isinstance(rule, NeuronThresholds):
            self.thresholds = rule.thresholds.to(self.w_out.weight.device)
        name = name_of(self.sigma)
        self.activation = name if name is not None and ENTRIES[name].in_triton else None
        self.exact = True
        if not measured(self.w_out.weight.device):
            _say_dense(self.w_out.weight.device)

    def use_dense(self) -> None:
        """From now on compute all neurons again, with W_out as torch's products like it best."""
        self.exact, self.thresholds = False, None
        self.w_out.weight.data = self.w_out.weight.data.contiguous()

    def intermediate(self, x: Tensor) -> Tensor:
        """`sigma(W_gate x) * (W_in x)`: (..., d_h) -> (..., d_f)."""
        return self.sigma(self.w_gate(x)) * self.w_in(x)

    def forward(self, x: Tensor, neurons: Tensor | None = None) -> Tensor:
        """(..., d_h) -> (..., d_h), in the way that is set.

        Args:
            x: any leading shape, any strides.
            neurons: only these, whatever is set: a list, (n,) int64 without repetitions, or a
                mask, bool (d_f,) for all tokens or (..., d_f) for each.
        """
        if neurons is not None:
            return self._given(x.reshape(-1, x.shape[-1]), neurons).reshape(x.shape)
        if self.exact:
            return self._exact(x.reshape(-1, x.shape[-1])).reshape(x.shape)
        gate = self.sigma(self.w_gate(x))
        intermediate = gate * self.w_in(x)
        if self.rule is not None:
            active = self.rule.active(gate, intermediate, out_norms(self.w_out.weight))
            intermediate = torch.where(active, intermediate, 0)
        output = self.w_out(intermediate)
        if self.watcher is not None:
            self.watcher(gate, intermediate, output)
        return output

    def _exact(self, x: Tensor) -> Tensor:
        if self.rule is not None or self.watcher is not None:
            raise ValueError("a rule or a watcher needs all neurons: call use_dense() first")
        w_gate, w_in, w_out = weights = self._weights()
        few = decode_pays(x.device, x.dtype, x.shape[0], w_gate.numel())
        if few and self.activation and not recorded(x, *weights):
            return quickly(decode_output, x, *weights, self.activation, self.thresholds)
        if tiles_may_pay(x.device, x.dtype, x.shape[0], w_gate.numel()):
            gate = self.sigma(gate_products(x, w_gate))
            return tiled_output(x, gate, w_in, w_out, self.thresholds)
        gate = self.sigma(linear(x, w_gate))
        if not may_pay(x.device.type, x.dtype, x.shape[0], w_gate.numel()):
            return dense_output(x, gate, w_in, w_out, self.thresholds)
        return quickly(active_output, x, gate, w_in, w_out, self.thresholds)

    def _given(self, x: Tensor, neurons: Tensor) -> Tensor:
        mask = None
        if neurons.dtype == torch.bool:
            mask = neurons.reshape(-1, neurons.shape[-1]).expand(x.shape[0], -1)
            neurons = mask.any(0).nonzero().squeeze(1)
        w_gate, w_in, w_out = self._weights()
        gate = self.sigma(quickly(neuron_products, x, w_gate, neurons))
        if mask is not None:
            gate = torch.where(mask[:, neurons], gate, 0)
        z = quickly(neuron_products, x, w_in, neurons, gate)
        return quickly(neuron_outputs, z, w_out, neurons)

    def _weights(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.w_gate.weight, self.w_in.weight, self.w_out.weight


@functools.cache
def _say_dense(device: torch.device) -> None:
    """Once, not for each layer."""
    log.warning("%s has no table in kernels/crossover.py: computing densely", device)
