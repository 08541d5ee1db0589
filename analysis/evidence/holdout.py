"""How a curve's answers fare on points that were kept from it."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsing.analysis.evidence.evidence import Evidence
from sparsing.analysis.laws.sparsity import Floats


def holdout(evidence: Evidence, tokens: Floats, ratios: Floats) -> dict[str, Any]:
    """Error, coverage and mean width of the intervals at later points (q,); None without any.

    Points are compared however far they lie. The widths are shares of neurons.
    """
    kept = np.isfinite(tokens) & np.isfinite(ratios) & (tokens > 0)
    tokens, ratios = tokens[kept], ratios[kept]
    found: dict[str, Any] = {
        "holdout_n": len(tokens),
        "holdout_mae": None,
        "interval_coverage": None,
        "holdout_width": None,
    }
    if not len(tokens):
        return found
    value, low, high = evidence.predict_many(tokens)
    found["holdout_mae"] = float(np.abs(value - ratios).mean())
    if evidence.answers:
        found["interval_coverage"] = float(((low <= ratios) & (ratios <= high)).mean())
        found["holdout_width"] = float((high - low).mean())
    return found
