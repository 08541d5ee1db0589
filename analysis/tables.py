"""Fits as readable tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.laws import PAPER_LAWS

if TYPE_CHECKING:
    from analysis.fit import Bounds, Fit


def number(value: float | None) -> str:
    """Five significant digits, or `-`."""
    return "-" if value is None else f"{value:.5g}"


def bounds_text(bounds: Bounds) -> str:
    """`[0.061, 0.068]`, with `open` where a side is."""
    return "[" + ", ".join("open" if b is None else f"{b:.5g}" for b in bounds) + "]"


def fit_table(fit: Fit) -> str:
    """The parameters with intervals and what they mean, then the warnings."""
    law = PAPER_LAWS[fit.law]
    head = f"{law.name}: {law.formula}   (D in billions of tokens)"
    counts = f"{fit.n} points, {fit.dropped} early ones dropped, mean squared error {fit.mse:.4g}"
    rows = [("parameter", "value", f"{fit.level:.0%} interval", "meaning")]
    for name, meaning in law.meaning.items():
        known = fit.identified[name]
        value = number(fit.parameters[name]) if known else "not identified"
        rows.append((name, value, bounds_text(fit.intervals[name]), meaning))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]])
        for row in rows
    ]
    return "\n".join([head, counts, *lines, *(f"note: {w}" for w in fit.warnings)])
