"""Fits of curves that were read from files, and what else `sparsing fit` says of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsing.analysis.curves.files import FileCurve
from sparsing.analysis.evidence.evidence import weigh
from sparsing.analysis.evidence.holdout import holdout
from sparsing.analysis.fitting.bootstrap import bootstrap
from sparsing.analysis.fitting.fit import Fit
from sparsing.analysis.fitting.fit_curve import fit_curve
from sparsing.analysis.fitting.fit_table import extra_lines
from sparsing.study.errors import DefinitionError, SparsingError

Extra = dict[str, Any]


def fit_file(
    curve: FileCurve,
    fraction: float | None = None,
    *,
    refits: int | None = None,
    block: int = 1,
    against: str | None = None,
    **options: Any,
) -> tuple[Fit, Extra]:
    """The fit of a curve that was read from a file, and what else was asked for.

    Args:
        curve: as it was read.
        fraction: fit this first part of it, and see how it predicts the rest.
        refits: number of bootstrap refits.
        block: neighbouring residuals that the bootstrap keeps together.
        against: coefficients to compare with, as `alpha=0.995,c=0.562,A0=0.383`.
        options: of `fit_curve`.

    Raises:
        DefinitionError: the curve cannot be fitted, which it says with the file's name.
    """
    made, extra = _fit_part(curve, fraction, options)
    return made, extra | _second_look(made, refits, block, against)


def _fit_part(
    curve: FileCurve, fraction: float | None, options: dict[str, Any]
) -> tuple[Fit, Extra]:
    order = np.argsort(curve.tokens, kind="stable")
    end = len(order) if fraction is None else round(fraction * len(order))
    part, rest = order[:end], order[end:]
    weights = None if curve.weights is None else curve.weights[part]
    try:
        made = fit_curve(
            curve.tokens[part], curve.activation_ratio[part], weights=weights, **options
        )
    except SparsingError as error:
        raise DefinitionError(f"{curve.name}: {error}") from error
    evidence = weigh(made)
    said = evidence.as_dict()
    if fraction is not None:
        said |= holdout(evidence, curve.tokens[rest], curve.activation_ratio[rest])
    return made, said


def _second_look(made: Fit, refits: int | None, block: int, against: str | None) -> Extra:
    """Bootstrap intervals and the comparison with given coefficients, if asked for."""
    found: Extra = {}
    if refits is not None:
        drawn = bootstrap(made, refits, block=block)
        names = made.form.parameter_names
        found["bootstrap"] = {
            name: list(drawn.interval(name, made.level)) if made.trend else [None, None]
            for name in names
        }
    if against is not None:
        given = _coefficients(against)
        mse = made.mse_of(**given)
        ratio = mse / made.mse if made.mse else np.inf
        found["against"] = {
            "parameters": given,
            "mse": mse if np.isfinite(mse) else None,
            "mse_ratio": ratio if np.isfinite(ratio) else None,
        }
    return found


def _coefficients(text: str) -> dict[str, float]:
    try:
        pairs = [part.split("=") for part in text.replace(" ", "").split(",")]
        return {name: float(value) for name, value in pairs}
    except ValueError as error:
        raise DefinitionError(
            f"--against '{text}': coefficients are written as alpha=0.995,c=0.562,A0=0.383"
        ) from error


def fit_document(curve: FileCurve, made: Fit, extra: Extra, *, many: bool) -> dict[str, Any]:
    """The document of `sparsing fit --json` for one file; with its name where there are many."""
    document = made.as_dict()
    document["read"] = curve.source.as_dict()
    document["warnings"] = [*curve.notes, *document["warnings"]]
    return ({"curve": curve.name} if many else {}) | document | extra


def fit_text(curve: FileCurve, made: Fit, extra: Extra) -> str:
    """The fit of one file as people read it."""
    lines = [curve.name, *(f"note: {note}" for note in curve.notes), str(made)]
    return "\n".join([*lines, *extra_lines(extra, made.level)])
