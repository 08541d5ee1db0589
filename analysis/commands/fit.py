"""`sparsing fit`: the laws fitted to anyone's curves; needs no study, no Ray and no torch."""

from __future__ import annotations

import json
from typing import Any

import click
import numpy as np

from sparsing.analysis.curves.files import CurveFile, read_curve
from sparsing.analysis.fitting.bootstrap import bootstrap
from sparsing.analysis.fitting.comparison import CURVE_LAWS, undecided
from sparsing.analysis.fitting.fit import Fit
from sparsing.analysis.fitting.fit_curve import fit_curve
from sparsing.analysis.fitting.fit_table import extra_lines
from sparsing.analysis.fitting.robust import LOSSES
from sparsing.study.errors import DefinitionError, SparsingError


@click.command()
@click.argument("curves", metavar="CURVE...", nargs=-1, required=True)
@click.option(
    "--law",
    type=click.Choice(["auto", *CURVE_LAWS]),
    default="auto",
    show_default=True,
    help="The law; auto takes relu or silu, whichever fits better.",
)
@click.option("--drop", type=click.IntRange(min=0), help="Early points to leave out [by BIC].")
@click.option(
    "--fit-fraction",
    type=click.FloatRange(0, 1, min_open=True),
    help="Fit this first part of the points, and test the prediction on the rest.",
)
@click.option(
    "--unit",
    type=click.Choice(["1", "K", "M", "B", "T"]),
    default="1",
    show_default=True,
    help="Unit of the token counts in the files.",
)
@click.option("--loss", type=click.Choice(LOSSES), default="least_squares", show_default=True)
@click.option("--level", default=0.95, show_default=True, help="Level of the intervals.")
@click.option("--tokens-column", help="Column of the token counts [guessed, and said].")
@click.option("--ratio-column", help="Column of the activation ratios [guessed, and said].")
@click.option("--error-column", help="Column of standard errors, to weight by.")
@click.option(
    "--bootstrap", "refits", type=click.IntRange(min=10), help="Also bootstrap so many refits."
)
@click.option(
    "--block",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Neighbouring residuals that the bootstrap keeps together.",
)
@click.option("--against", help="Coefficients to compare with, as 'alpha=0.995,c=0.562,A0=0.383'.")
@click.option("--plot", type=click.Path(dir_okay=False), help="Draw curve, law and band: a PNG.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document; an array of many files.")
def fit(
    curves: tuple[str, ...],
    law: str,
    drop: int | None,
    fit_fraction: float | None,
    unit: str,
    loss: Any,
    level: float,
    tokens_column: str | None,
    ratio_column: str | None,
    error_column: str | None,
    refits: int | None,
    block: int,
    against: str | None,
    plot: str | None,
    as_json: bool,
) -> None:
    """Fit the laws of activation sparsity to each CURVE (csv, json, parquet).

    A curve is a column of training tokens and one of activation ratios. Tokens are plain
    everywhere but in the law, which speaks of billions. Intervals are profile likelihood's;
    what the points do not identify is said to be so.

    \b
    Example:
      sparsing fit curve.csv
      sparsing fit runs/*.json --fit-fraction 0.7 --plot fits.png
      sparsing fit curve.parquet --law relu --drop 6 --json
      sparsing fit 0.8b_silu.json --against alpha=0.995,c=0.562,A0=0.383
    """
    columns = {
        "tokens_column": tokens_column,
        "ratio_column": ratio_column,
        "error_column": error_column,
        "unit": unit,
    }
    read = [read_curve(path, **columns) for path in curves]  # type: ignore[arg-type]
    fits = [
        _fit_one(curve, fit_fraction, law=law, drop=drop, loss=loss, level=level) for curve in read
    ]
    fits = [(made, extra | _second_look(made, refits, block, against)) for made, extra in fits]
    if plot:
        from sparsing.analysis.curves.plot import plot_curves

        plot_curves(plot, list(zip(read, (each for each, _ in fits), strict=True)))
    documents = [
        _document(curve, *result, many=len(read) > 1)
        for curve, result in zip(read, fits, strict=True)
    ]
    if as_json:
        click.echo(json.dumps(documents if len(documents) > 1 else documents[0], indent=2))
    else:
        click.echo("\n\n".join(_text(c, *r) for c, r in zip(read, fits, strict=True)))


Extra = dict[str, Any]


def _fit_one(curve: CurveFile, fraction: float | None, **options: Any) -> tuple[Fit, Extra]:
    """The fit of a curve, or of its first part together with how it predicts the rest."""
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
    if fraction is None:
        return made, {}
    return made, holdout(made, curve.tokens[rest], curve.activation_ratio[rest])


def holdout(made: Fit, tokens: np.ndarray, ratios: np.ndarray) -> Extra:
    """Error and interval coverage of a fit's predictions at later points; None without any."""
    kept = np.isfinite(tokens) & np.isfinite(ratios) & (tokens > 0)
    tokens, ratios = tokens[kept], ratios[kept]
    if not len(tokens):
        return {"holdout_n": 0, "holdout_mae": None, "interval_coverage": None}
    value, low, high = made.predict_many(tokens)
    known = made.region(made.level) is not None
    return {
        "holdout_n": len(tokens),
        "holdout_mae": float(np.abs(value - ratios).mean()),
        "interval_coverage": float(((low <= ratios) & (ratios <= high)).mean()) if known else None,
    }


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


def _document(curve: CurveFile, made: Fit, extra: Extra, *, many: bool) -> dict[str, Any]:
    document = made.as_dict()
    document["warnings"] = [*curve.notes, *document["warnings"]]
    return ({"curve": curve.name} if many else {}) | document | extra


def _text(curve: CurveFile, made: Fit, extra: Extra) -> str:
    close = undecided(made.criteria)
    lines = [curve.name, *(f"note: {note}" for note in curve.notes), str(made)]
    if len(close) > 1:
        lines.append(f"undecided, within 2 AICc of each other: {', '.join(close)}")
    return "\n".join([*lines, *extra_lines(extra, made.level)])
