"""The secant: power laws in a few steps, steep, flat, falling and noisy rises to their end."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsing.actors.measuring.secant import excess, roughness, solve

LOW, HIGH = math.log(1e-4), 0.0


def search(rise, start: float = 0.15, slope: float = 2.5, tolerance: float = 0.02):
    """CETT found for a rise(cett) in shares of the wished one, and how often it was asked."""
    asked = []

    def f(log_cett: float) -> float:
        asked.append(log_cett)
        assert len(asked) < 60
        return excess(rise(math.exp(log_cett)), 1.0)

    found, _ = solve(f, math.log(start), slope, low=LOW, high=HIGH, tolerance=tolerance)
    return math.exp(found), len(asked)


@given(crossing=st.floats(0.02, 0.7), power=st.floats(0.9, 8))
@settings(max_examples=100, deadline=None)
def test_power_laws_from_nearly_linear_to_steep(crossing: float, power: float) -> None:
    found, asked = search(lambda cett: (cett / crossing) ** power)
    assert (found / crossing) ** power == pytest.approx(1, rel=0.021)
    assert asked <= 9


def test_the_usual_rise_takes_three_evaluations() -> None:
    assert search(lambda cett: (cett / 0.22) ** 2.3)[1] <= 3


@given(crossing=st.floats(0.1, 0.8), dip=st.floats(0.1, 3), steep=st.floats(2, 30))
@settings(max_examples=100, deadline=None)
def test_rises_that_fall_first(crossing: float, dip: float, steep: float) -> None:
    """A floor of the logarithm, the naive way, makes all falling points alike: no slope there."""

    def rise(cett: float) -> float:
        x = cett / crossing
        return x * (1 + dip) * x**steep - dip * x

    assert rise(crossing) == pytest.approx(1)
    found, asked = search(rise)
    assert rise(found) == pytest.approx(1, rel=0.021)
    assert asked <= 20


@given(seed=st.integers(0, 10**6), noise=st.floats(0, 2))
@settings(max_examples=100, deadline=None)
def test_noise_ends_at_a_crossing(seed: int, noise: float) -> None:
    """Rises that jump up and down: the search ends, and not far from where they cross."""
    waves = np.random.default_rng(seed).normal(0, noise / 3, 3)

    def rise(cett: float) -> float:
        x = math.log(cett / 0.2)
        bumps = sum(w * math.sin((3**k) * 11 * x) for k, w in enumerate(waves))
        return math.exp(2.3 * x) + bumps

    found, asked = search(rise)
    near = [rise(found * math.exp(step)) for step in np.linspace(-0.05, 0.05, 101)]
    assert min(near) <= 1.03
    assert max(near) >= 0.97
    assert asked <= 40


def walk(seed: int, noise: float):
    """A rise as it is: log-slope 2 and a random walk of the size that `roughness` states."""
    grid = np.linspace(LOW, HIGH, 20_001)
    steps = np.random.default_rng(seed).normal(0, 2 * np.sqrt(noise * (grid[1] - grid[0])), 20_001)
    values = 2 * (grid - math.log(0.2)) + np.cumsum(steps) - np.cumsum(steps)[15_000]
    return grid, values, grid[:-1][np.diff(np.sign(values)) != 0]


@pytest.mark.parametrize("tokens", [2_048, 8_192, 65_536])
def test_a_walk_is_not_bisected_to_its_end(tokens: int) -> None:
    noise = roughness(tokens, 1.0)
    distances, counts, ends = [], [], []
    for seed in range(40):
        grid, values, crossings = walk(seed, noise)
        asked = []

        def f(x: float, grid=grid, values=values, asked=asked) -> float:
            asked.append(x)
            return float(np.interp(x, grid, values))

        near = max(noise, 0.02)
        found, _ = solve(f, math.log(0.15), 2.5, low=LOW, high=HIGH, tolerance=near, rough=noise)
        distances.append(np.abs(crossings - found).min() / max(noise, near / 2))
        counts.append(len(asked))
        ends.append(abs(f(found)))
    assert np.median(distances) <= 0.5
    assert max(distances) <= 4
    assert max(ends) <= 2 * near
    assert np.median(counts) <= 5
    assert max(counts) <= 12


def test_long_chords_correct_what_is_believed_of_the_slope() -> None:
    _, slope = solve(
        lambda x: 1.5 * (x + 1.6), -3.0, 2.5, low=LOW, high=HIGH, tolerance=1e-3, rough=1e-3
    )
    assert slope == pytest.approx(1.5, abs=0.2)


def test_a_jump_is_found() -> None:
    found, _ = search(lambda cett: 5.0 if cett > 0.3 else 0.1)
    assert found == pytest.approx(0.3, rel=2e-3)


def test_ends_of_the_range() -> None:
    assert search(lambda cett: 0.01 * cett)[0] == 1.0
    assert search(lambda cett: 5.0)[0] == pytest.approx(1e-4)


@given(share=st.floats(-5, 50), other=st.floats(-5, 50))
def test_excess_rises_and_is_zero_at_the_wish(share: float, other: float) -> None:
    low, high = sorted((share, other))
    assert excess(low, 1.0) <= excess(high, 1.0)
    assert excess(0.01, 0.01) == 0
    assert excess(1 / math.e - 1e-9, 1.0) == pytest.approx(excess(1 / math.e + 1e-9, 1.0))
