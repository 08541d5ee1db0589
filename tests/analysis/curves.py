"""Where the tests' curves come from: Table 2, or the measurements."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from analysis.laws import PAPER_LAWS

TABLE_2 = {
    "0.1b_relu": ("relu", {"alpha": 0.101, "b": -0.0151, "c": 3.20, "A0": 0.0614}),
    "0.8b_relu": ("relu", {"alpha": 1.01, "b": -3.49, "c": 7.97e-3, "A0": 0.0721}),
    "1.2b_relu": ("relu", {"alpha": 1.33, "b": -3.89, "c": 9.03e-4, "A0": 0.0782}),
    "0.1b_silu": ("silu", {"alpha": 0.479, "c": 0.102, "A0": 0.409}),
    "0.2b_silu": ("silu", {"alpha": 0.844, "c": 0.208, "A0": 0.390}),
    "0.4b_silu": ("silu", {"alpha": 1.03, "c": 0.420, "A0": 0.385}),
}
"""Published coefficients of the curves that are measured, tokens in billions."""
LAST_BILLIONS = {"0.1b": 41.6, "0.2b": 92.8, "0.4b": 145.3, "0.8b": 272.4, "1.2b": 317.8}
NOISE = {"relu": 2.5e-4, "silu": 8e-4}


def measured_folder() -> Path | None:
    """Folder of the measured curves, if it is at hand."""
    beside = Path(__file__).parents[3] / "shared" / "paper" / "curves"
    folder = Path(os.environ.get("SPARSING_CURVES", beside))
    return folder if folder.is_dir() else None


def synthetic(name: str, *, seed: int = 0, points: int = 40, noise: float | None = None):
    """Tokens and ratios from the published law of a curve, with normal noise."""
    law, parameters = TABLE_2[name]
    last = LAST_BILLIONS[name[:4]]
    billions = np.linspace(last / points, last, points)
    spread = NOISE[law] if noise is None else noise
    error = np.random.default_rng(seed).normal(0, spread, points)
    return billions * 1e9, PAPER_LAWS[law].value(billions, **parameters) + error
