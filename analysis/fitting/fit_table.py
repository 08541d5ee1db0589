"""Fits as people read them: numbers, intervals, tables."""

from __future__ import annotations

from typing import Any

from sparsing.study.display.table import Table, table

Bounds = tuple[float | None, float | None]


def number(value: float | None) -> str:
    """Five significant digits, or `-`."""
    return "-" if value is None else f"{value:.5g}"


def bounds_text(bounds: Bounds) -> str:
    """`[0.061, 0.068]`, with `open` where a side is."""
    return "[" + ", ".join("open" if b is None else f"{b:.5g}" for b in bounds) + "]"


def verdict_text(word: str, reason: str) -> str:
    """A verdict on a law: `holds: ...`, `undecided between ...`, `refused by the data: ...`."""
    if word == "undecided":
        return f"{word} {reason}"
    return f"{word} by the data: {reason}" if word == "refused" else f"{word}: {reason}"


def laws_table(rows: list[dict[str, Any]]) -> Table:
    """A line for each parameter of each fit, from documents of `laws_document`; notes below."""
    headings = ("run", "law", "stage", "points", "parameter", "value", "95 % interval")
    shown = table(headings, right=("points",))
    for row in rows:
        first = (row["run"], row["law"], row["stage"], str(row["points"]))
        for name, value in row["parameters"].items():
            known = number(value) if row["identified"][name] else "not identified"
            shown.add(*first, name, known, bounds_text(row["intervals"][name]))
            first = ("", "", "", "")
        limit = row["limit_activation_ratio"]
        known = "not identified" if limit is None else number(limit)
        bounds = bounds_text((row["limit_low"], row["limit_high"]))
        by = "limit, all laws" if row["verdict"] else "limit, this law"
        shown.add(*first, by, known, bounds)
    verdicts = [
        f"{row['run']}: the {row['law']} law {verdict_text(row['verdict'], row['verdict_reason'])}"
        for row in rows
        if row["verdict"]
    ]
    warnings = [f"{row['run']}: {note}" for row in rows for note in row["warnings"]]
    shown.notes = [*verdicts, *warnings]
    return shown


def extra_lines(extra: dict[str, Any], level: float) -> list[str]:
    """Hold-out, bootstrap intervals and the comparison with given coefficients, as far as asked."""
    lines = []
    if "verdict" in extra:
        lines += evidence_lines(extra, level)
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


def evidence_lines(said: dict[str, Any], level: float) -> list[str]:
    """The verdict, and the limit by all laws that the points cannot refuse."""
    bounds = bounds_text(tuple(said["limit_interval"]))
    known = "not identified" if said["limit"] is None else number(said["limit"])
    names = ", ".join(f"{name} {share:.0%}" for name, share in said["law_weights"].items())
    return [
        f"the law {verdict_text(said['verdict'], said['verdict_reason'])}",
        f"limit by all laws that the points cannot refuse: {known}, {level:.0%} {bounds} ({names})",
    ]


def _holdout_line(held: dict[str, Any], level: float) -> str:
    if not held["holdout_n"]:
        return "hold-out: no points left to predict"
    error = f"hold-out: {held['holdout_n']} later points, mean absolute error "
    error += f"{held['holdout_mae']:.3g}"
    if held["interval_coverage"] is None:
        return f"{error}; no intervals, the points fitted are too few"
    return (
        f"{error}, {held['interval_coverage']:.0%} of them inside the {level:.0%} prediction "
        f"intervals, {held['holdout_width']:.3g} wide on average"
    )
