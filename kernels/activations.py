"""The activation functions of a gate, by name: those of `sparsing.registry`, as torch functions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from sparsing import registry


def _function(formula: str) -> Callable[[Tensor], Tensor]:
    """The function of an entry's formula, which is source of ours."""
    made: Callable[[Tensor], Tensor] = eval(f"lambda x: {formula}", {"functional": functional})
    return made


ACTIVATIONS = {name: _function(entry.formula) for name, entry in registry.ACTIVATIONS.items()}


def name_of(sigma: Callable[[Tensor], Tensor]) -> str | None:
    """Name of the function that gives the same values, to the last bit; None: no one does.

    Models of others bring functions of their own, which kernels know only by what they compute.
    """
    gates = torch.linspace(-12, 12, 241)
    values = sigma(gates)
    return next((name for name, known in ACTIVATIONS.items() if known(gates).equal(values)), None)
