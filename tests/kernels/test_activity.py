"""What counts as active: every rule against its definition, and in every precision the same."""

from __future__ import annotations

import pytest
import torch

from sparsing.kernels.activations import ACTIVATIONS
from sparsing.kernels.activity import (
    Cett,
    Fat,
    Rule,
    StraightforwardRelu,
    TopK,
    contributions,
    out_norms,
)
from sparsing.kernels.ffn import GatedFFN

RULES = [StraightforwardRelu(), TopK(7), Fat(0.3), Cett(0.1)]


def test_contributions_are_the_norms_of_the_neuron_outputs() -> None:
    z, w_out = torch.randn(4, 9), torch.randn(6, 9)
    expected = (z[:, :, None] * w_out.T).norm(dim=-1)
    torch.testing.assert_close(contributions(z, out_norms(w_out)), expected)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_sparse_ffn_is_the_sum_of_its_active_neurons(activation: str, rule: Rule) -> None:
    torch.manual_seed(0)
    ffn = GatedFFN(8, 24, activation)
    x = torch.randn(3, 5, 8)
    dense = ffn(x)
    gate, z = ffn.sigma(ffn.w_gate(x)), ffn.intermediate(x)
    active = rule.active(gate, z, out_norms(ffn.w_out.weight))
    ffn.rule = rule
    torch.testing.assert_close(ffn(x), (z * active) @ ffn.w_out.weight.T)
    ffn.rule = None
    torch.testing.assert_close(ffn(x), dense)


def test_rules_are_their_definitions() -> None:
    gate = torch.tensor([[0.0, 0.2, -0.5, 0.3, 0.0]])
    z, norms = gate * 2, torch.tensor([1.0, 5.0, 1.0, 1.0, 1.0])
    assert StraightforwardRelu().active(gate, z, norms).tolist() == [[0, 1, 1, 1, 0]]
    assert TopK(2).active(gate, z, norms).tolist() == [[0, 0, 1, 1, 0]]
    assert Fat(0.3).active(gate, z, norms).tolist() == [[0, 0, 1, 1, 0]]
    assert Cett(1.0).active(gate, z, norms).tolist() == [[0, 1, 1, 0, 0]]


def test_top_k_takes_exactly_k_in_ties() -> None:
    gate = torch.zeros(3, 10)
    assert TopK(4).active(gate, gate, torch.ones(10)).sum(-1).tolist() == [4, 4, 4]


def test_bfloat16_is_compared_as_it_was_searched() -> None:
    """Comparing in bfloat16, the naive way, gives another mask than the float32 search."""
    z = torch.randn(200, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    norms = torch.rand(64, generator=torch.Generator().manual_seed(1)) + 0.5
    sizes = contributions(z, norms)
    eps = float(sizes.flatten().sort().values[6000])
    assert int(Cett(eps).active(z, z, norms).sum()) == sizes.numel() - 6000
    naive = (z.abs() * norms.bfloat16()) > torch.tensor(eps).bfloat16()
    assert int(naive.sum()) != sizes.numel() - 6000
