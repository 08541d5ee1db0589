"""The commands on what a study means: `sparsing laws`, `predict` and `report`."""

from __future__ import annotations

import csv
import json
import sys
from typing import Any

import click

from sparsing.analysis.fitting.fit import Fit
from sparsing.analysis.fitting.fit_table import aligned, bounds_text, number
from sparsing.analysis.refitting.fit_rows import fit_again
from sparsing.analysis.refitting.refit import newest_fits
from sparsing.study.commands.options import store_option
from sparsing.study.definition.values import token_count
from sparsing.study.errors import NotFoundError
from sparsing.study.guarded_json import read_json
from sparsing.study.plan.runs import find_run, plan_runs
from sparsing.study.store.study_store import StudyStore


@click.command()
@click.argument("study")
@store_option
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated values.")
def laws(study: str, root: str, as_json: bool, as_csv: bool) -> None:
    """Show the newest law of each run of STUDY, with 95 % intervals.

    STUDY is an id, a unique prefix of one, or a path. Tokens are in billions in the laws.

    \b
    Example:
      sparsing laws quickstart
      sparsing laws quickstart --json
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    store = StudyStore.open(root, study)
    document = laws_document(store)
    rows = document["fits"]
    if as_json:
        click.echo(json.dumps(document, indent=2, default=str))
    elif as_csv:
        _write_csv(rows)
    else:
        click.echo(_laws_table(rows) if rows else "no fits yet: no run has two measured points")


def laws_document(store: StudyStore, run: str | None = None) -> dict[str, Any]:
    """The newest fits of a study, or of one run, as a document for JSON."""
    rows = newest_fits(store, run).to_dicts()
    return {"study": store.study_id, "fits": [readable(row) for row in rows]}


def readable(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the `fits` table with its JSON columns read."""
    texts = ("parameters", "intervals", "identified", "criteria", "settings", "warnings")
    return row | {name: read_json(row[name], f"fits.{name}") for name in texts}


def _laws_table(rows: list[dict[str, Any]]) -> str:
    head = ("run", "law", "stage", "points", "parameter", "value", "95 % interval")
    lines: list[tuple[str, ...]] = [head]
    for row in rows:
        first = (row["run"], row["law"], row["stage"], str(row["points"]))
        for name, value in row["parameters"].items():
            known = number(value) if row["identified"][name] else "not identified"
            lines.append((*first, name, known, bounds_text(row["intervals"][name])))
            first = ("", "", "", "")
    notes = [f"{row['run']}: {note}" for row in rows for note in row["warnings"]]
    return "\n".join([aligned(lines), *notes])


def _write_csv(rows: list[dict[str, Any]]) -> None:
    columns = ["run", "law", "stage", "tokens", "points", "dropped", "mse"]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*columns, "parameter", "value", "low", "high", "identified"])
    for row in rows:
        for name, value in row["parameters"].items():
            bounds, known = row["intervals"][name], row["identified"][name]
            writer.writerow([*(row[c] for c in columns), name, value, *bounds, known])


@click.command()
@click.argument("study")
@click.argument("run")
@store_option
@click.option("--tokens", help="Predict the activation ratio at so many tokens, as 8e11 or 800B.")
@click.option("--ratio", type=float, help="Predict the tokens to this activation ratio.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def predict(
    study: str, run: str, root: str, tokens: str | None, ratio: float | None, as_json: bool
) -> None:
    """Predict RUN of STUDY by its newest law: a ratio at --tokens, or the tokens to a --ratio.

    With 95 % intervals. Tokens to a ratio may be "never", or "cannot say".

    \b
    Example:
      sparsing predict quickstart relu-0.1B-wd48-s0 --tokens 8e11
      sparsing predict quickstart relu-0.1B-wd48-s0 --ratio 0.07
    """
    if (tokens is None) == (ratio is None):
        raise click.UsageError("give either --tokens or --ratio")
    store = StudyStore.open(root, study)
    document = predictions_document(store, run, tokens, ratio)
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo("\n".join(_sentence(answer) for answer in document["predictions"]))


def predictions_document(
    store: StudyStore, run: str, tokens: str | None, ratio: float | None
) -> dict[str, Any]:
    """What the newest laws of a run say, as a document for JSON; one of tokens and ratio is given.

    Raises NotFoundError for a run that is not there or has no fit, DefinitionError for numbers
    that cannot be.
    """
    answers = [
        {"run": run, "law": fit.law, **(_to(fit, ratio) if tokens is None else _at(fit, tokens))}
        for fit in run_fits(store, run)
    ]
    return {"study": store.study_id, "run": run, "predictions": answers}


def run_fits(store: StudyStore, run: str) -> list[Fit]:
    """The newest fits of a run, one for each law, made again from the rows that they rest on."""
    find_run(plan_runs(store.study), run, store.study_id)
    rows = newest_fits(store, run)
    if rows.is_empty():
        raise NotFoundError(f"run {run} has no fit yet: fewer than two measured points")
    return [fit_again(row) for row in rows.iter_rows(named=True)]


def _at(fit: Fit, text: str) -> dict[str, Any]:
    tokens = token_count(text, f"tokens = {text}")
    value, low, high = fit.predict(tokens)
    known = low is not None and high is not None
    return {
        "tokens": tokens,
        "activation_ratio": value if known else None,
        "interval": [low, high],
        "verdict": "predicted" if known else "cannot say",
    }


def _to(fit: Fit, ratio: float | None) -> dict[str, Any]:
    assert ratio is not None
    answer = fit.tokens_to(ratio).as_dict()
    return answer | {"interval": [answer.pop("low"), answer.pop("high")]}


def _sentence(answer: dict[str, Any]) -> str:
    who, verdict = f"{answer['run']} ({answer['law']} law)", answer["verdict"]
    low, high = (f"{b:.4g}" if b is not None else "open" for b in answer["interval"])
    if "ratio" not in answer:
        at = f"activation ratio at {answer['tokens']:.4g} tokens"
        if verdict == "cannot say":
            return f"{who}: {at}: cannot say, the points are too few"
        return f"{who}: {at}: {answer['activation_ratio']:.4g}, 95 % interval {low} to {high}"
    goal = f"activation ratio {answer['ratio']:g}"
    if verdict == "reached":
        return f"{who}: {goal} at {answer['tokens']:.4g} tokens, 95 % interval {low} to {high}"
    since = f"; not before {low} tokens" if verdict == "cannot say" and low != "open" else ""
    return f"{who}: {goal}: {verdict}: {answer['reason']}{since}"


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

    store = StudyStore.open(root, study)
    path = write_report(store)
    if as_json:
        click.echo(json.dumps({"study": store.study_id, "report": str(path)}))
    else:
        click.echo(f"report: {path}")
