"""CETT and its thresholds against the definition, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.activity import CettCurve, active_neurons, contributions, out_norms
from kernels.ffn import GatedFFN

Layer = tuple[torch.Tensor, torch.Tensor]


def layer(tokens: int, d_h: int, d_f: int, seed: int, relu: bool = True) -> Layer:
    """Intermediates (tokens, d_f) with neurons of very different sizes, and W_out (d_h, d_f)."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(tokens, d_f, generator=generator) * torch.randn(d_f, generator=generator).exp()
    return z.relu() if relu else z, torch.randn(d_h, d_f, generator=generator)


def curve_of(z: torch.Tensor, w_out: torch.Tensor, chunk: int = 10**6) -> CettCurve:
    curve = CettCurve()
    for part in z.split(chunk):
        curve.update(part, w_out)
    return curve


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


@given(seed=st.integers(0, 10**6), relu=st.booleans(), cett=st.floats(0.01, 0.6))
@settings(max_examples=20, deadline=None)
def test_threshold_reaches_the_cett_of_the_definition(seed: int, relu: bool, cett: float) -> None:
    z, w_out = layer(400, 8, 60, seed, relu)
    threshold = curve_of(z, w_out).threshold(cett)
    assert cett_by_definition(z, w_out, threshold) == pytest.approx(cett, rel=0.02)


@given(seed=st.integers(0, 10**6), low=st.floats(1e-4, 1), high=st.floats(1e-4, 1))
@settings(max_examples=30, deadline=None)
def test_threshold_grows_with_cett(seed: int, low: float, high: float) -> None:
    curve = curve_of(*layer(32, 6, 20, seed))
    low, high = sorted((low, high))
    assert curve.threshold(low) <= curve.threshold(high) * (1 + 1e-9)


@given(seed=st.integers(0, 10**6), chunk=st.integers(20, 400))
@settings(max_examples=20, deadline=None)
def test_chunks_of_tokens_do_not_change_the_threshold(seed: int, chunk: int) -> None:
    z, w_out = layer(400, 8, 60, seed)
    # The grid hangs on the first chunk's largest contribution: interpolation differs a little.
    found = curve_of(z, w_out, chunk).threshold(0.2)
    assert found == pytest.approx(curve_of(z, w_out).threshold(0.2), rel=0.02)


def test_neurons_can_be_permuted_and_rescaled() -> None:
    z, w_out = layer(100, 6, 30, seed=1)
    order = torch.randperm(30)
    scale = torch.rand(30) + 0.5
    expected = curve_of(z, w_out).threshold(0.2)
    assert curve_of(z[:, order], w_out[:, order]).threshold(0.2) == pytest.approx(expected, 1e-5)
    assert curve_of(z * scale, w_out / scale).threshold(0.2) == pytest.approx(expected, 1e-5)


def test_under_one_percent_active_neurons_are_still_pruned() -> None:
    """A search range that ends at a quantile of the contributions would return zero here."""
    z = torch.zeros(50, 1000)
    z[:, :3] = torch.tensor([1.0, 0.1, 0.01])
    w_out = torch.eye(8, 1000)
    threshold = curve_of(z, w_out).threshold(0.05)
    assert threshold > 0
    active = active_neurons(z, out_norms(w_out), threshold).float().mean().item()
    assert 1 / 1000 <= active <= 3 / 1000


def test_a_tiny_target_keeps_every_neuron_that_contributes() -> None:
    z, w_out = layer(20, 6, 30, seed=0)
    threshold = curve_of(z, w_out).threshold(1e-9)
    assert cett_by_definition(z, w_out, threshold * (1 - 1e-6)) == 0.0
    assert torch.equal(active_neurons(z, out_norms(w_out), threshold), z != 0)


def test_a_target_beyond_reach_leaves_nothing() -> None:
    z, w_out = layer(20, 6, 30, seed=0)
    assert not active_neurons(z, out_norms(w_out), curve_of(z, w_out).threshold(10.0)).any()


def test_a_token_with_zero_output_has_nothing_to_truncate() -> None:
    z, w_out = layer(200, 6, 30, seed=0)
    padded = torch.cat([z, torch.zeros(200, 30)])
    expected = curve_of(z, w_out).threshold(0.2)
    assert curve_of(padded, w_out).threshold(0.1) == pytest.approx(expected, rel=1e-5)


def test_all_zero_activations_have_threshold_zero() -> None:
    assert curve_of(torch.zeros(4, 10), torch.ones(3, 10)).threshold(0.1) == 0.0


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
    ffn.threshold = contributions(ffn.intermediate(x), out_norms(ffn.w_out.weight)).median().item()
    z = ffn.intermediate(x)
    active = active_neurons(z, out_norms(ffn.w_out.weight), ffn.threshold)
    assert 0.4 < active.float().mean() < 0.6
    torch.testing.assert_close(ffn(x), (z * active) @ ffn.w_out.weight.T)
    ffn.threshold = None
    torch.testing.assert_close(ffn(x), dense)
