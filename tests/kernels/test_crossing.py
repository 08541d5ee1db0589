"""The exact crossing, against sorting in float64; and what the naive ways get wrong."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsing.kernels.activity import Cett, out_norms
from sparsing.kernels.crossing import CettWindow

Layer = tuple[torch.Tensor, torch.Tensor]


def layer(tokens: int, d_h: int, d_f: int, seed: int, relu: bool = True) -> Layer:
    """Intermediates (tokens, d_f) with neurons of very different sizes, and W_out (d_h, d_f)."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(tokens, d_f, generator=generator) * torch.randn(d_f, generator=generator).exp()
    return z.relu() if relu else z, torch.randn(d_h, d_f, generator=generator)


def window_of(z: torch.Tensor, w_out: torch.Tensor, chunk: int = 10**6, **options) -> CettWindow:
    window = CettWindow(**options)
    for part in z.split(chunk):
        weights, owner = torch.ones(len(part)), torch.zeros(len(part), dtype=torch.long)
        window.update(part, part @ w_out.T, w_out, weights, owner)
    return window


def threshold(z: torch.Tensor, w_out: torch.Tensor, cett: float, chunk: int = 10**6) -> float:
    """Roughly from the whole staircase, then from a window around it."""
    whole = window_of(z, w_out, chunk)
    rough = whole.crossing(cett)
    assert rough is not None
    if whole.fine or rough > whole.largest:
        return rough
    window = window_of(z, w_out, chunk, low=rough / 1.1, high=rough * 1.1)
    assert window.fine
    found = window.crossing(cett)
    assert found is not None
    return found


def by_sorting(z: torch.Tensor, w_out: torch.Tensor, cett: float) -> float:
    """The first contribution at which the mean CETT passes: all of them, sorted, in float64."""
    z, w_out = z.double(), w_out.double()
    sizes, order = (z.abs() * w_out.norm(dim=0)).sort(-1)
    vectors = z.gather(1, order).unsqueeze(-1) * w_out.T[order]
    whole = (z @ w_out.T).norm(dim=-1, keepdim=True)
    tails = torch.where(whole > 0, vectors.cumsum(1).norm(dim=-1) / whole, 0)
    rises = tails.diff(prepend=torch.zeros(len(z), 1), dim=1)
    positive = sizes > 0
    values, order = sizes[positive].sort()
    means = rises[positive][order].cumsum(0) / len(z)
    return float(values[(means >= cett).nonzero()[0]])


@given(seed=st.integers(0, 10**6), relu=st.booleans(), cett=st.floats(1e-3, 0.9))
@settings(max_examples=30, deadline=None)
def test_crossing_is_that_of_sorting(seed: int, relu: bool, cett: float) -> None:
    z, w_out = layer(100, 8, 40, seed, relu)
    assert threshold(z, w_out, cett) == pytest.approx(by_sorting(z, w_out, cett), rel=1e-4)


@given(seed=st.integers(0, 10**6), cett=st.floats(0.01, 0.7), off=st.floats(0.91, 1.09))
@settings(max_examples=30, deadline=None)
def test_a_window_around_it_finds_the_same_crossing(seed: int, cett: float, off: float) -> None:
    z, w_out = layer(100, 8, 40, seed)
    whole = window_of(z, w_out)
    exact = by_sorting(z, w_out, cett)
    window = window_of(z, w_out, low=exact * off / 1.1, high=exact * off * 1.1)
    assert window.crossing(cett) == pytest.approx(exact, rel=2e-5)
    # The whole range is summed in bins: right to 1e-3 of the CETT value, where one neuron more or
    # less moves the crossing to its neighbour.
    lowest, highest = (by_sorting(z, w_out, cett * (1 + share)) for share in (-1e-3, 1e-3))
    assert lowest * (1 - 2e-3) <= whole.crossing(cett) <= highest * (1 + 2e-3)
    assert window.walked < whole.walked / 3


def test_a_crossing_outside_the_window_is_said_to_be_there() -> None:
    z, w_out = layer(100, 8, 40, seed=0)
    eps = threshold(z, w_out, 0.2)
    assert window_of(z, w_out, low=eps * 1.1).crossing(0.2) is None
    assert window_of(z, w_out, high=eps * 0.9).crossing(0.2) is None


def held_bytes(window: CettWindow) -> int:
    tensors = [t for t in vars(window).values() if isinstance(t, torch.Tensor)]
    return sum(t.numel() * t.element_size() for t in tensors)


def test_memory_depends_neither_on_tokens_nor_on_neurons() -> None:
    few, many = (
        window_of(*layer(tokens, 8, d_f, 0), low=0.3, high=0.5)
        for tokens, d_f in ((10, 10), (4000, 400))
    )
    assert many.walked > 10_000 * max(few.walked, 1) / 100
    assert held_bytes(few) == held_bytes(many) < 2**21
    assert held_bytes(window_of(*layer(10, 8, 10, 0))) < 2**22


@given(seed=st.integers(0, 10**6), low=st.floats(1e-4, 1), high=st.floats(1e-4, 1))
@settings(max_examples=30, deadline=None)
def test_threshold_grows_with_cett(seed: int, low: float, high: float) -> None:
    z, w_out = layer(32, 6, 20, seed)
    low, high = sorted((low, high))
    assert threshold(z, w_out, low) <= threshold(z, w_out, high)


@given(seed=st.integers(0, 10**6), chunk=st.integers(1, 300))
@settings(max_examples=20, deadline=None)
def test_chunks_of_tokens_do_not_change_the_threshold(seed: int, chunk: int) -> None:
    z, w_out = layer(300, 8, 30, seed)
    assert threshold(z, w_out, 0.2, chunk) == pytest.approx(threshold(z, w_out, 0.2), rel=1e-5)


def test_neurons_can_be_permuted_and_rescaled() -> None:
    z, w_out = layer(100, 6, 30, seed=1)
    order, scale = torch.randperm(30), torch.rand(30) + 0.5
    expected = threshold(z, w_out, 0.2)
    assert threshold(z[:, order], w_out[:, order], 0.2) == pytest.approx(expected, rel=1e-5)
    assert threshold(z * scale, w_out / scale, 0.2) == pytest.approx(expected, rel=1e-5)


def test_sequences_sum_to_the_mean() -> None:
    z, w_out = layer(120, 6, 30, seed=2)
    window = CettWindow(sequences=4)
    window.update(z, z @ w_out.T, w_out, torch.ones(120), torch.arange(120) // 30)
    eps = window.crossing(0.3)
    assert eps is not None
    assert 0.25 < float(window.cett_of_sequences(eps).sum()) / 120 <= 0.3


def test_under_one_percent_active_neurons_are_still_pruned() -> None:
    """A search range that ends at the 0.99 quantile of contributions, which is 0, finds 0."""
    z = torch.zeros(50, 1000)
    z[:, :3] = torch.tensor([1.0, 0.1, 0.01])
    w_out = torch.eye(8, 1000)
    assert float((z * out_norms(w_out)).quantile(0.99)) == 0
    assert threshold(z, w_out, 0.05) == pytest.approx(0.1)


def test_a_tiny_target_keeps_every_neuron_that_contributes() -> None:
    """The naive way takes the candidate before the first that passes: index -1, the last."""
    z, w_out = layer(20, 6, 30, seed=0)
    sizes = z * out_norms(w_out)
    grid = sizes[sizes > 0].sort().values
    means = torch.stack([cett_at(z, w_out, float(eps)) for eps in grid])
    assert cett_at(z, w_out, float(grid[int((means < 1e-9).sum()) - 1])) < 1e-9
    grid, means = grid[1:], means[1:]
    assert cett_at(z, w_out, float(grid[int((means < 1e-9).sum()) - 1])) > 0.9
    eps = threshold(z, w_out, 1e-9)
    assert cett_at(z, w_out, eps) < 1e-9
    assert torch.equal(Cett(eps).active(z, z, out_norms(w_out)), z != 0)


def cett_at(z: torch.Tensor, w_out: torch.Tensor, eps: float) -> torch.Tensor:
    """The mean CETT at a threshold, by its definition."""
    weak = torch.where(Cett(eps).active(z, z, out_norms(w_out)), 0, z)
    return ((weak @ w_out.T).norm(dim=-1) / (z @ w_out.T).norm(dim=-1)).mean()


def test_a_target_beyond_reach_leaves_nothing() -> None:
    z, w_out = layer(20, 6, 30, seed=0)
    assert not Cett(threshold(z, w_out, 10.0)).active(z, z, out_norms(w_out)).any()


def test_a_token_with_zero_output_has_nothing_to_truncate_and_is_counted() -> None:
    """The naive mean of ratios is NaN as soon as there is one such token."""
    z, w_out = layer(200, 6, 30, seed=0)
    padded = torch.cat([z, torch.zeros(200, 30)])
    assert math.isnan(cett_at(padded, w_out, 0.1))
    assert threshold(padded, w_out, 0.1) == pytest.approx(threshold(z, w_out, 0.2), rel=2e-5)


def test_padding_counts_nowhere() -> None:
    z, w_out = layer(100, 6, 30, seed=0)
    junk = torch.cat([z, torch.full((50, 30), 7.0)])
    weights = torch.cat([torch.ones(100), torch.zeros(50)])
    window = CettWindow()
    window.update(junk, junk @ w_out.T, w_out, weights, torch.zeros(150, dtype=torch.long))
    assert window.tokens == 100
    assert window.crossing(0.2) == pytest.approx(threshold(z, w_out, 0.2), rel=1e-5)
    assert window_of(junk, w_out).crossing(0.2) != pytest.approx(window.crossing(0.2), rel=1e-3)


def test_every_neuron_is_seen_whatever_d_f_is() -> None:
    """Every 64th contribution of d_f = 64 is always neuron 0: the naive sample sees one size."""
    z = torch.ones(40, 64) * torch.arange(1, 65)
    w_out = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    assert len(z.flatten()[::64].unique()) == 1
    assert threshold(z, w_out, 0.3) == pytest.approx(by_sorting(z, w_out, 0.3), rel=1e-4)


def test_of_a_layer_that_puts_out_nothing_no_neuron_is_active() -> None:
    z, w_out = torch.zeros(4, 10), torch.ones(3, 10)
    assert not Cett(threshold(z, w_out, 0.1)).active(z, z, out_norms(w_out)).any()
