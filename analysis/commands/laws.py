"""The commands on what a study means: `sparsing laws`, `predict` and `report`."""

from __future__ import annotations

import csv
import json
import sys
from typing import Any

import click

from sparsing.study.commands.options import store_option


@click.command()
@click.argument("study")
@store_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated values.")
@click.option("--pool", type=click.Choice(["seeds"]), help="Also the limits over all seeds.")
def laws(study: str, root: str, as_json: bool, as_csv: bool, pool: str | None) -> None:
    """Show the newest law of each run of STUDY, with 95 % intervals.

    STUDY is an id, a unique prefix of one, or a path. Tokens are in billions in the laws.

    \b
    Example:
      sparsing laws quickstart
      sparsing laws quickstart --json
      sparsing laws quickstart --pool seeds
    """
    if as_csv and (as_json or pool):
        raise click.UsageError("--csv excludes --json and --pool")
    from sparsing.analysis.refitting.newest import laws_document
    from sparsing.study.store.study_store import StudyStore

    store = StudyStore.open(root, study)
    document = laws_document(store)
    rows = document["fits"]
    if pool:
        from sparsing.analysis.forecasting.seeds import pool_seeds

        document["pooled"] = [each.as_dict() for each in pool_seeds(store)]
    if as_json:
        click.echo(json.dumps(document, indent=2, default=str))
    elif as_csv:
        _write_csv(rows)
    else:
        _show_laws(rows)
        if pool:
            _show_pooled(document["pooled"])


def _show_laws(rows: list[dict[str, Any]]) -> None:
    from sparsing.analysis.fitting.fit_table import laws_table
    from sparsing.study.display.table import show

    if rows:
        show(laws_table(rows))
    else:
        click.echo("no fits yet: no run has two measured points")


def _show_pooled(pooled: list[dict[str, Any]]) -> None:
    from sparsing.analysis.fitting.fit_table import bounds_text, number
    from sparsing.study.display.table import show, table

    shown = table(("model", "law", "seeds", "limit over seeds", "95 % interval", "scatter"))
    for each in pooled:
        known = f"{each['known']} of {each['seeds']} known"
        limit = "not identified" if each["limit"] is None else number(each["limit"])
        bounds = bounds_text((each["low"], each["high"]))
        shown.add(each["model"], each["law"], known, limit, bounds, number(each["scatter"]))
    if pooled:
        show(shown)
    else:
        click.echo("no model has two fitted seeds")


def _write_csv(rows: list[dict[str, Any]]) -> None:
    columns = ["run", "law", "stage", "tokens", "points", "dropped", "mse"]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    answers = ["limit_activation_ratio", "limit_low", "limit_high", "verdict"]
    writer.writerow([*columns, "parameter", "value", "low", "high", "identified", *answers])
    for row in rows:
        for name, value in row["parameters"].items():
            bounds, known = row["intervals"][name], row["identified"][name]
            said = [row[c] for c in answers]
            writer.writerow([*(row[c] for c in columns), name, value, *bounds, known, *said])


@click.command()
@click.argument("study")
@click.argument("run", required=False)
@store_option
@click.option("--tokens", help="Predict the activation ratio at so many tokens, as 8e11 or 800B.")
@click.option("--ratio", type=float, help="Predict the tokens to this activation ratio.")
@click.option(
    "--register", "seal", is_flag=True, help="Keep the forecast in the store, sealed by a digest."
)
@click.option("--score", "scored", is_flag=True, help="Say how the kept forecasts fared.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def predict(
    study: str,
    run: str | None,
    root: str,
    tokens: str | None,
    ratio: float | None,
    seal: bool,
    scored: bool,
    as_json: bool,
) -> None:
    """Predict RUN of STUDY: a ratio at --tokens, or the tokens to a --ratio.

    By all laws that its points cannot refuse, with 95 % intervals, and with the verdict on its own
    law. Far beyond the tokens measured the answer is "cannot say"; a ratio may be reached "never".

    \b
    Example:
      sparsing predict quickstart relu-0.1B-wd48-s0 --tokens 8e11
      sparsing predict quickstart relu-0.1B-wd48-s0 --ratio 0.07
      sparsing predict quickstart relu-0.1B-wd48-s0 --tokens 2B --register
      sparsing predict quickstart --score
    """
    if scored:
        if run or tokens is not None or ratio is not None or seal:
            raise click.UsageError("--score goes with STUDY alone")
        _show_scores(root, study, as_json=as_json)
        return
    if run is None or (tokens is None) == (ratio is None):
        raise click.UsageError("give RUN, and either --tokens or --ratio")
    from sparsing.analysis.forecasting.ledger import register
    from sparsing.analysis.forecasting.predictions import predictions_document, sentence
    from sparsing.study.store.study_store import StudyStore

    store = StudyStore.open(root, study)
    document = predictions_document(store, run, tokens, ratio)
    if seal:
        document["registered"] = register(store, document)
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo("\n".join(sentence(answer) for answer in document["predictions"]))


def _show_scores(root: str, study: str, *, as_json: bool) -> None:
    from sparsing.analysis.forecasting.ledger import score, scores_table, summary
    from sparsing.study.display.table import show
    from sparsing.study.store.study_store import StudyStore

    store = StudyStore.open(root, study)
    found = score(store, "forecast")
    if as_json:
        entries = [each.as_dict() for each in found]
        click.echo(json.dumps({"study": store.study_id, "forecasts": entries}, indent=2))
    elif found:
        show(scores_table(found))
        click.echo(summary(found))
    else:
        click.echo(
            "no forecast is kept: `sparsing predict STUDY RUN --tokens N --register` keeps one"
        )


@click.command()
@click.argument("study")
@store_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def report(study: str, root: str, as_json: bool) -> None:
    """Write the report of STUDY, one HTML file, from its store as it is now.

    \b
    Example:
      sparsing report quickstart
    """
    from sparsing.analysis.report.report import write_report
    from sparsing.study.store.study_store import StudyStore

    store = StudyStore.open(root, study)
    path = write_report(store)
    if as_json:
        click.echo(json.dumps({"study": store.study_id, "report": str(path)}))
    else:
        click.echo(f"report: {path}")
