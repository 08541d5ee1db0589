"""FFNs of other models that are measured where they are: not replaced, but watched and masked.

What goes into their output layer, z, is what neurons contribute by, n_i = W_out[:, i] z_i, whatever
made it. The model's own code computes everything; only what a rule calls weak becomes 0 in z.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsing.actors.models.ffn_forms import Form, Sigma, weight_of
from sparsing.kernels.activity import Rule, out_norms

Watcher = Callable[[Tensor, Tensor, Tensor], None]


class Output:
    """The output layer of an FFN, as what measures sees it."""

    def __init__(self, weight: Callable[[], Tensor]) -> None:
        self._weight = weight

    @property
    def weight(self) -> Tensor:
        """W_out, (d_h, d_f)."""
        return self._weight()

    @property
    def in_features(self) -> int:
        """d_f."""
        return self.weight.shape[1]


class ForeignFFN:
    """What a measurement needs of an FFN; `GatedFFN` has the same."""

    sigma: Sigma | None
    """Activation function of the gate; None: it has no gate of its own."""

    def __init__(self, w_out: Output, sigma: Sigma | None, words: str) -> None:
        self.w_out, self.sigma, self.words = w_out, sigma, words
        self.rule: Rule | None = None
        self.watcher: Watcher | None = None

    def use_exact(self, rule: Rule | None = None) -> None:
        """Refused: only gated FFNs of three layers without biases are computed sparsely."""
        raise ValueError(f"its FFNs compute {self.words}; only down(act(gate(x)) * up(x)) is")

    def use_dense(self) -> None:
        """It is never anything else."""

    def masked(self, gate: Tensor, z: Tensor) -> Tensor:
        """z with 0 where the rule calls a neuron weak."""
        if self.rule is None:
            return z
        active = self.rule.active(gate, z, out_norms(self.w_out.weight))
        return torch.where(active, z, 0)


class HookedFFN(ForeignFFN):
    """An FFN whose layers were found by `ffn_forms`, by hooks on them."""

    def __init__(self, form: Form) -> None:
        super().__init__(Output(lambda: weight_of(form.down)), form.sigma, form.words)
        self._form = form
        self._gate: Tensor | None = None
        self._z: Tensor | None = None
        form.gate.register_forward_hook(self._keep)
        form.down.register_forward_pre_hook(self._mask)
        form.down.register_forward_hook(self._watch)

    @property
    def _idle(self) -> bool:
        return self.rule is None and self.watcher is None

    def _keep(self, module: nn.Module, taken: Any, given: Tensor) -> None:
        if not self._idle:
            self._gate = given

    def _mask(self, module: nn.Module, taken: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self._idle:
            return None
        assert self._gate is not None
        z = taken[0]
        self._gate = self._form.sigma(self._form.part(self._gate)).reshape(z.shape)
        self._z = self.masked(self._gate, z)
        return (self._z, *taken[1:])

    def _watch(self, module: nn.Module, taken: Any, given: Tensor) -> None:
        if self.watcher is not None:
            assert self._gate is not None
            assert self._z is not None
            self.watcher(self._gate, self._z, given)
        self._gate = self._z = None


class ExpertFFN(ForeignFFN):
    """All experts of a layer as one FFN, in which a token's neurons outside its experts are 0.

    z is taken times the router's weight of its expert, so that n_i = W_out[:, i] z_i is what the
    neuron adds to the layer's output; the neurons of expert e are e d_f up to (e + 1) d_f.
    """

    def __init__(self, module: Any, transposed: bool, in_turn: bool) -> None:
        sigma: Sigma | None = None if hasattr(module, "_apply_gate") else module.act_fn
        super().__init__(Output(self._all_outputs), sigma, "experts")
        self.module, self._transposed, self._in_turn = module, transposed, in_turn
        down: Tensor = module.down_proj
        self.count = down.shape[0]
        """Experts."""
        self.d_f = down.shape[1 if transposed else 2]
        """Neurons of one expert."""
        self.chosen = 0
        """Experts of a token, once a forward was seen."""

    def _all_outputs(self) -> Tensor:
        down: Tensor = self.module.down_proj  # (experts, d_h, d_f), or its transpose
        down = down if self._transposed else down.transpose(1, 2)
        return down.reshape(self.count * self.d_f, -1).T

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """In place of the module's own: tokens (n, d_h), experts and weights (n, k) -> (n, d_h)."""
        self.chosen = chosen.shape[-1]
        shape = (len(hidden), self.count * self.d_f)
        gate, z = hidden.new_zeros(shape), hidden.new_zeros(shape)
        used: list[tuple[int, Tensor, Tensor]] = []
        for expert in range(self.count):
            token, place = (chosen == expert).nonzero(as_tuple=True)
            if not len(token):
                continue
            mine = slice(expert * self.d_f, (expert + 1) * self.d_f)
            s, made = self._neurons(expert, hidden[token])
            weight = weights[token, place, None]
            gate[token, mine], z[token, mine] = s, (made * weight).to(z.dtype)
            used.append((expert, token, weight))
        z = self.masked(gate, z)
        output = torch.zeros_like(hidden)
        for expert, token, weight in used:
            mine = slice(expert * self.d_f, (expert + 1) * self.d_f)
            part = self._linear(z[token, mine], "down_proj", expert)
            if (bias := getattr(self.module, "down_proj_bias", None)) is not None:
                part = part + bias[expert] * weight
            output.index_add_(0, token, part.to(output.dtype))
        if self.watcher is not None:
            self.watcher(gate, z, output)
        return output

    def _neurons(self, expert: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """s and z of one expert."""
        both = self._linear(x, "gate_up_proj", expert)
        if (bias := getattr(self.module, "gate_up_proj_bias", None)) is not None:
            both = both + bias[expert]
        if self.sigma is None:
            made: Tensor = self.module._apply_gate(both)
            return made, made
        gate, up = (both[..., ::2], both[..., 1::2]) if self._in_turn else both.chunk(2, -1)
        s = self.sigma(gate)
        return s, s * up

    def _linear(self, x: Tensor, name: str, expert: int) -> Tensor:
        weight: Tensor = getattr(self.module, name)[expert]
        return x @ weight if self._transposed else functional.linear(x, weight)
