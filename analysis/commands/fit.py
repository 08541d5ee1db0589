"""`sparsing fit`: the laws fitted to anyone's curves; needs no study, no Ray and no torch."""

from __future__ import annotations

import json
from typing import Any

import click

from sparsing.analysis.fitting.names import CURVE_LAW_NAMES, LOSSES


@click.command()
@click.argument("curves", metavar="CURVE...", nargs=-1, required=True)
@click.option(
    "--law",
    type=click.Choice(["auto", *CURVE_LAW_NAMES]),
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
    help="Unit of the token counts in the files [from the column's name, else 1].",
)
@click.option("--loss", type=click.Choice(LOSSES), default="least_squares", show_default=True)
@click.option("--level", default=0.95, show_default=True, help="Level of the intervals.")
@click.option("--tokens-column", help="Column of the token counts [by its name, and said].")
@click.option("--ratio-column", help="Column of the activation ratios [by its name, and said].")
@click.option(
    "--by",
    multiple=True,
    help="Column that tells the series of a file apart, one fit each; may be given again "
    "[by name and values, and said].",
)
@click.option(
    "--repeats",
    type=click.Choice(["newest", "mean"]),
    help="What counts where a token count comes again [the newest after a resume, else the mean].",
)
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
@click.option("--json", "as_json", is_flag=True, help="One JSON document; an array of many curves.")
def fit(
    curves: tuple[str, ...],
    law: str,
    drop: int | None,
    fit_fraction: float | None,
    unit: str | None,
    loss: Any,
    level: float,
    tokens_column: str | None,
    ratio_column: str | None,
    by: tuple[str, ...],
    repeats: Any,
    error_column: str | None,
    refits: int | None,
    block: int,
    against: str | None,
    plot: str | None,
    as_json: bool,
) -> None:
    """Fit the laws of activation sparsity to each CURVE (csv, json, parquet, arrow).

    A curve is a column of training tokens and one of activation ratios; what was read is said
    first. Several series in a file get one fit each. Tokens are plain everywhere but in the law,
    which speaks of billions. The parameters are those of one law, with profile likelihood
    intervals; the limit and all predictions come from every law that the points cannot refuse, and
    a verdict says whether the law holds.

    \b
    Example:
      sparsing fit curve.csv
      sparsing fit runs/*.json --fit-fraction 0.7 --plot fits.png
      sparsing fit curve.parquet --law relu --drop 6 --json
      sparsing fit runs.csv --by run --unit B
      sparsing fit 0.8b_silu.json --against alpha=0.995,c=0.562,A0=0.383
    """
    from sparsing.analysis.curves.files import read_curves
    from sparsing.analysis.curves.fit_files import fit_document, fit_file, fit_text

    read = [
        curve
        for path in curves
        for curve in read_curves(
            path,
            tokens_column=tokens_column,
            ratio_column=ratio_column,
            error_column=error_column,
            unit=unit,
            by=by,
            repeats=repeats,
        )
    ]
    if not as_json:
        click.echo("\n".join(str(curve.source) for curve in read) + "\n")
    fits = [
        fit_file(
            curve,
            fit_fraction,
            refits=refits,
            block=block,
            against=against,
            law=law,
            drop=drop,
            loss=loss,
            level=level,
        )
        for curve in read
    ]
    if plot:
        from sparsing.analysis.curves.plot import plot_curves

        plot_curves(plot, list(zip(read, (each for each, _ in fits), strict=True)))
    pairs = list(zip(read, fits, strict=True))
    if as_json:
        documents = [fit_document(curve, *made, many=len(read) > 1) for curve, made in pairs]
        click.echo(json.dumps(documents if len(documents) > 1 else documents[0], indent=2))
    else:
        click.echo("\n\n".join(fit_text(curve, *made) for curve, made in pairs))
