"""Fits as readable tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsing.analysis.fitting.fit import Bounds, Fit


def number(value: float | None) -> str:
    """Five significant digits, or `-`."""
    return "-" if value is None else f"{value:.5g}"


def bounds_text(bounds: Bounds) -> str:
    """`[0.061, 0.068]`, with `open` where a side is."""
    return "[" + ", ".join("open" if b is None else f"{b:.5g}" for b in bounds) + "]"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines, their cells in columns; the last column is as wide as it is."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return "\n".join(lines)


def fit_table(fit: Fit) -> str:
    """The parameters with intervals and what they mean, then the warnings."""
    law = fit.form
    head = f"{law.name}: {law.formula}   (D in billions of tokens)"
    counts = f"{fit.n} points, {fit.dropped} early ones dropped, mean squared error {fit.mse:.4g}"
    rows = [("parameter", "value", f"{fit.level:.0%} interval", "meaning")]
    for name, meaning in law.meaning.items():
        known = fit.identified[name]
        value = number(fit.parameters[name]) if known else "not identified"
        rows.append((name, value, bounds_text(fit.intervals[name]), meaning))
    return "\n".join([head, counts, aligned(rows), *(f"note: {w}" for w in fit.warnings)])


def extra_lines(extra: dict[str, Any], level: float) -> list[str]:
    """Hold-out, bootstrap intervals and the comparison with given coefficients, as far as asked."""
    lines = []
    if "holdout_n" in extra:
        lines.append(_holdout_line(extra, level))
    if "bootstrap" in extra:
        each = (f"{name} {bounds_text(tuple(b))}" for name, b in extra["bootstrap"].items())
        lines.append(f"bootstrap, {level:.0%}: {', '.join(each)}")
    if "against" in extra:
        against = extra["against"]
        lines.append(
            f"given coefficients: mean squared error {number(against['mse'])}, "
            f"{number(against['mse_ratio'])} times the fit's"
        )
    return lines


def _holdout_line(held: dict[str, Any], level: float) -> str:
    if not held["holdout_n"]:
        return "hold-out: no points left to predict"
    error = f"hold-out: {held['holdout_n']} later points, mean absolute error "
    error += f"{held['holdout_mae']:.3g}"
    if held["interval_coverage"] is None:
        return f"{error}; no intervals, the points fitted are too few"
    return (
        f"{error}, {held['interval_coverage']:.0%} of them inside the {level:.0%} prediction "
        "intervals"
    )
