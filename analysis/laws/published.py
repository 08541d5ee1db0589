"""The paper's published laws (Table 2), and curves: the measured ones, or made from the laws."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from sparsing.analysis.laws.sparsity import PAPER_LAWS, Floats
from sparsing.study.errors import NotFoundError

CURVES_FOLDER = "SPARSING_CURVES"
"""Environment variable: folder of the published measurements, as `0.8b_relu.json`."""

PUBLISHED: dict[str, dict[str, float]] = {
    "0.1b_relu": {"alpha": 0.101, "b": -0.0151, "c": 3.20, "A0": 0.0614},
    "0.2b_relu": {"alpha": 0.449, "b": -3.05, "c": 0.286, "A0": 0.0674},
    "0.4b_relu": {"alpha": 0.683, "b": -3.46, "c": 0.0790, "A0": 0.0690},
    "0.8b_relu": {"alpha": 1.01, "b": -3.49, "c": 7.97e-3, "A0": 0.0721},
    "1.2b_relu": {"alpha": 1.33, "b": -3.89, "c": 9.03e-4, "A0": 0.0782},
    "0.1b_silu": {"alpha": 0.479, "c": 0.102, "A0": 0.409},
    "0.2b_silu": {"alpha": 0.844, "c": 0.208, "A0": 0.390},
    "0.4b_silu": {"alpha": 1.03, "c": 0.420, "A0": 0.385},
    "0.8b_silu": {"alpha": 0.995, "c": 0.562, "A0": 0.383},
    "1.2b_silu": {"alpha": 0.967, "c": 0.538, "A0": 0.382},
}
"""Coefficients of Table 2 for the scales whose curves end at a known token count."""
LAST_BILLIONS = {"0.1b": 41.6, "0.2b": 92.8, "0.4b": 145.3, "0.8b": 272.4, "1.2b": 317.8}
NOISE = {"relu": 2.5e-4, "silu": 8e-4}
"""Standard deviation of the measured points about their law, about."""
MEASURED = ("0.1b_relu", "0.8b_relu", "1.2b_relu", "0.1b_silu", "0.2b_silu", "0.4b_silu")
"""Names of the curves whose measurements are published."""


def law_of(name: str) -> str:
    """`relu` of `0.8b_relu`."""
    return name.partition("_")[2]


def synthetic(
    name: str, *, seed: int = 0, points: int = 40, noise: float | None = None
) -> tuple[Floats, Floats]:
    """Tokens and ratios from a published law, at equal steps, with normal noise."""
    law = law_of(name)
    last = LAST_BILLIONS[name.partition("_")[0]]
    billions = np.linspace(last / points, last, points)
    spread = NOISE[law] if noise is None else noise
    error = np.random.default_rng(seed).normal(0, spread, points)
    return billions * 1e9, PAPER_LAWS[law].value(billions, **PUBLISHED[name]) + error


def published_curve(name: str, folder: Path | None = None) -> tuple[Floats, Floats]:
    """A measured curve, from `folder` or SPARSING_CURVES; without either, a synthetic one."""
    if folder is None and (given := os.environ.get(CURVES_FOLDER)):
        folder = Path(given)
    if folder is None:
        return synthetic(name)
    file = folder / f"{name}.json"
    if not file.is_file():
        raise NotFoundError(f"no curve {file}; set or unset {CURVES_FOLDER}")
    data = json.loads(file.read_text("utf-8"))
    return np.array(data["token_passed"], dtype=float), np.array(data["activation_ratio"])
