"""CETT and its thresholds against the definition, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.activity import LayerContributions, active_neurons, contributions, out_norms
from kernels.ffn import GatedFFN


def layer(tokens: int, d_h: int, d_f: int, seed: int, relu: bool = True) -> LayerContributions:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(tokens, d_f, generator=generator) * torch.randn(d_f, generator=generator).exp()
    z = z.relu() if relu else z
    return LayerContributions(z, torch.randn(d_h, d_f, generator=generator))


def cett_by_definition(z: torch.Tensor, w_out: torch.Tensor, threshold: float) -> float:
    """Neuron by neuron, in float64: the sum of the weak output vectors over the whole output."""
    z, w_out = z.double(), w_out.double()
    total = 0.0
    for token in z:
        vectors = token[:, None] * w_out.T
        norms = vectors.norm(dim=1)
        weak, whole = vectors[norms < threshold].sum(0).norm(), vectors.sum(0).norm()
        total += float(weak / whole) if whole > 0 else 0.0
    return total / len(z)


@given(seed=st.integers(0, 10**6), relu=st.booleans(), share=st.floats(0.01, 0.99))
@settings(max_examples=30, deadline=None)
def test_cett_is_the_definition(seed: int, relu: bool, share: float) -> None:
    found = layer(7, 5, 12, seed, relu)
    # Between two contributions, so that float32 and float64 agree on who is weak.
    ordered = found.contributions.flatten().sort().values
    at = int(share * (len(ordered) - 1))
    threshold = float((ordered[at] + ordered[at + 1]) / 2)
    expected = cett_by_definition(found.intermediate, found.w_out, threshold)
    assert found.cett(threshold) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@given(seed=st.integers(0, 10**6), relu=st.booleans(), cett=st.floats(1e-3, 0.9))
@settings(max_examples=30, deadline=None)
def test_threshold_lies_at_the_crossing(seed: int, relu: bool, cett: float) -> None:
    found = layer(64, 8, 40, seed, relu)
    threshold = found.threshold(cett)
    assert found.cett(threshold * 0.99) <= cett + 1e-3
    assert found.cett(threshold * 1.01) >= cett - 1e-3


@given(seed=st.integers(0, 10**6), low=st.floats(1e-4, 1), high=st.floats(1e-4, 1))
@settings(max_examples=30, deadline=None)
def test_threshold_grows_with_cett(seed: int, low: float, high: float) -> None:
    found = layer(32, 6, 20, seed)
    low, high = sorted((low, high))
    assert found.threshold(low) <= found.threshold(high) * (1 + 2e-3)


def test_under_one_percent_active_neurons_are_still_pruned() -> None:
    """A search range that ends at a quantile of the contributions would return zero here."""
    z = torch.zeros(50, 1000)
    z[:, :3] = torch.tensor([1.0, 0.1, 0.01])
    found = LayerContributions(z, torch.eye(8, 1000))
    threshold = found.threshold(0.05)
    assert threshold > 0
    active = active_neurons(z, out_norms(found.w_out), threshold).float().mean().item()
    assert 1 / 1000 <= active <= 3 / 1000


def test_a_tiny_target_keeps_every_neuron_that_contributes() -> None:
    found = layer(20, 6, 30, seed=0)
    threshold = found.threshold(1e-9)
    assert found.cett(threshold) == 0.0
    kept = active_neurons(found.intermediate, out_norms(found.w_out), threshold)
    assert torch.equal(kept, found.intermediate != 0)


def test_a_target_beyond_reach_leaves_nothing() -> None:
    found = layer(20, 6, 30, seed=0)
    assert not (found.contributions >= found.threshold(10.0)).any()


def test_a_token_with_zero_output_has_nothing_to_truncate() -> None:
    found = layer(20, 6, 30, seed=0)
    z = torch.cat([found.intermediate, torch.zeros(20, 30)])
    padded = LayerContributions(z, found.w_out)
    assert padded.cett(0.5) == pytest.approx(found.cett(0.5) / 2, rel=1e-6)
    assert padded.threshold(0.1) > 0


def test_all_zero_activations_have_threshold_zero() -> None:
    assert LayerContributions(torch.zeros(4, 10), torch.ones(3, 10)).threshold(0.1) == 0.0


def test_contributions_are_the_norms_of_the_neuron_outputs() -> None:
    z, w_out = torch.randn(4, 9), torch.randn(6, 9)
    expected = (z[:, :, None] * w_out.T).norm(dim=-1)
    torch.testing.assert_close(contributions(z, out_norms(w_out)), expected)


@pytest.mark.parametrize("activation", ["relu", "silu", "relu2", "gelu"])
def test_sparse_ffn_is_the_sum_of_its_active_neurons(activation: str) -> None:
    torch.manual_seed(0)
    ffn = GatedFFN(8, 24, activation)
    x = torch.randn(3, 5, 8)
    dense = ffn(x)
    ffn.threshold = float(contributions(ffn.intermediate(x), out_norms(ffn.w_out.weight)).median())
    z = ffn.intermediate(x)
    active = active_neurons(z, out_norms(ffn.w_out.weight), ffn.threshold)
    assert 0.4 < active.float().mean() < 0.6
    torch.testing.assert_close(ffn(x), (z * active) @ ffn.w_out.weight.T)
    ffn.threshold = None
    torch.testing.assert_close(ffn(x), dense)
