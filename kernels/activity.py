"""What counts as an active neuron: every definition of paper section 1, as rules.

For a token, neuron i of a gated FFN has the gate s_i = sigma(W_gate x)_i, the intermediate
z_i = s_i (W_in x)_i, and puts out the vector n_i = W_out[:, i] z_i, of norm
||n_i|| = |z_i| ||W_out[:, i]||. A neuron that is not active is *weak*.

Values and thresholds are compared in one place, `at_least`: `>=`, in float32, whatever the
model's precision, both where thresholds are searched and where they are applied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


def at_least(values: Tensor, threshold: float | Tensor) -> Tensor:
    """values >= threshold, in float32: (..., d_f) -> bool (..., d_f)."""
    return values.float() >= threshold


def out_norms(w_out: Tensor) -> Tensor:
    """Norms ||W_out[:, i]|| of the output columns: (d_h, d_f) -> (d_f,), float32."""
    return torch.linalg.vector_norm(w_out.float(), dim=0)


def contributions(intermediate: Tensor, norms: Tensor) -> Tensor:
    """||n_i|| = |z_i| ||W_out[:, i]||: (..., d_f) and (d_f,) -> (..., d_f), float32."""
    return intermediate.float().abs() * norms


def contributing(intermediate: Tensor, norms: Tensor) -> Tensor:
    """Which neurons put anything out: z (..., d_f), ||W_out[:, i]|| (d_f,) -> bool (..., d_f).

    A neuron that contributes exactly nothing is never counted as active, whatever rule chose it:
    Top-k takes k also where ReLU leaves fewer, FAT with eps 0 takes all.
    """
    return (intermediate != 0) & (norms > 0)


class Rule(Protocol):
    """One layer's definition of active neurons, with its parameter."""

    def active(self, gate: Tensor, intermediate: Tensor, norms: Tensor) -> Tensor:
        """Which neurons are active: s and z, (..., d_f), and ||W_out[:, i]||, (d_f,) -> bool."""


@dataclass(frozen=True)
class StraightforwardRelu:
    """Active where s_i is not zero (metric `relu`)."""

    def active(self, gate: Tensor, intermediate: Tensor, norms: Tensor) -> Tensor:
        """As in `Rule`."""
        return gate != 0


@dataclass(frozen=True)
class TopK:
    """Active are the k neurons with the largest |s_i| (metric `topk`); exactly k, also in ties."""

    k: int

    def active(self, gate: Tensor, intermediate: Tensor, norms: Tensor) -> Tensor:
        """As in `Rule`."""
        strongest = gate.float().abs().topk(int(self.k), dim=-1).indices
        return torch.zeros_like(gate, dtype=torch.bool).scatter_(-1, strongest, True)


@dataclass(frozen=True)
class Fat:
    """Active where |s_i| >= eps, one eps for the model (metric `fat`)."""

    eps: float

    def active(self, gate: Tensor, intermediate: Tensor, norms: Tensor) -> Tensor:
        """As in `Rule`."""
        return at_least(gate.abs(), self.eps)


@dataclass(frozen=True)
class Cett:
    """Active where ||n_i|| >= eps, an eps for each layer (metrics `cett` and `cett_ppl`)."""

    eps: float

    def active(self, gate: Tensor, intermediate: Tensor, norms: Tensor) -> Tensor:
        """As in `Rule`."""
        return at_least(contributions(intermediate, norms), self.eps)
