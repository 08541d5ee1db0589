"""A function is known by what it computes."""

from __future__ import annotations

import pytest
import torch
import transformers.activations
from torch import nn

from sparsing.kernels.activations import ACTIVATIONS, name_of


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_functions_of_others_are_recognised(name: str) -> None:
    assert name_of(ACTIVATIONS[name]) == name
    assert name_of(transformers.activations.ACT2FN[name]) == name


def test_what_differs_a_little_is_another_function() -> None:
    assert name_of(nn.GELU(approximate="tanh")) is None
    assert name_of(nn.LeakyReLU(1e-6)) is None
    assert name_of(lambda gate: torch.relu(gate - 0.01)) is None
