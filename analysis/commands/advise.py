"""The command `sparsing advise`: stop, extend, or what to run next, and why."""

from __future__ import annotations

import json

import click

from sparsing.analysis.fitting.fit_table import aligned
from sparsing.analysis.forecasting.advice import Advice, advise
from sparsing.analysis.forecasting.new_runs import NewRuns
from sparsing.analysis.forecasting.planned import PlannedRun
from sparsing.analysis.forecasting.run_advice import RunAdvice
from sparsing.study.commands.options import store_option
from sparsing.study.definition.values import token_count
from sparsing.study.plan.runs import ACCELERATOR
from sparsing.study.store.study_store import StudyStore
from sparsing.study.units import count_text, hours_text

MOST_NEW_RUNS = 5
"""So many are shown for each family; all are in the JSON document."""
MEANING = {
    "stop": "can stop: more tokens are not needed",
    "done": "done: ended, and known precisely enough",
    "extend": "must go on",
    "cannot say": "cannot say",
}


@click.command("advise")
@click.argument("study")
@store_option
@click.option(
    "--precision",
    default=0.1,
    show_default=True,
    help="Wished half width of the 95 % interval, relative to the value.",
)
@click.option("--absolute", is_flag=True, help="--precision is in the quantity's own unit.")
@click.option("--tokens", help="Wish for the activation ratio at so many tokens, as 8e11 or 800B.")
@click.option("--ratio", type=float, help="Wish for the tokens to this activation ratio.")
@click.option("--scale", help="Also predict models of this scale, as 2.4B.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def advise_command(
    study: str,
    root: str,
    precision: float,
    absolute: bool,
    tokens: str | None,
    ratio: float | None,
    scale: str | None,
    as_json: bool,
) -> None:
    """Say which runs of STUDY can stop, which must go on, and what to run next; and why.

    A run can stop when its limit, or the quantity of --tokens or --ratio, is known to --precision
    by its law, and no law that fits as well says otherwise. Changes nothing.

    \b
    Example:
      sparsing advise quickstart
      sparsing advise quickstart --precision 0.005 --absolute
      sparsing advise quickstart --tokens 8e11
      sparsing advise demo --scale 2M
      sparsing advise quickstart --ratio 0.07 --precision 0.2 --json
    """
    store = StudyStore.open(root, study)
    advice = advise(
        store,
        precision=precision,
        absolute=absolute,
        tokens=None if tokens is None else token_count(tokens, f"--tokens {tokens}"),
        ratio=ratio,
        scale=scale,
        progress=lambda run: click.echo(f"advising on {run}", err=True),
    )
    if as_json:
        click.echo(json.dumps(advice.as_dict(), indent=2))
    else:
        click.echo(_text(advice))


def _text(advice: Advice) -> str:
    wish = advice.wish
    wished = f"wished is the {wish.name} within {wish.precision_text}"
    lines = [f"study {advice.study}: {wished} (half width of the 95 % interval)"]
    for verdict, meaning in MEANING.items():
        runs = [each for each in advice.runs if each.verdict == verdict]
        if runs:
            lines += ["", meaning, *(line for each in runs for line in _sentences(each))]
    if advice.planned:
        lines += ["", "not started", *(_planned(each) for each in advice.planned)]
    for family in advice.new_runs:
        lines += ["", f"what to run next for {family.family}", f"  {family.reason}"]
        lines += _new_runs(family)
    lines += ["", _costs(advice) if advice.runs else "no run has started"]
    return "\n".join(lines)


def _planned(each: PlannedRun) -> str:
    cost = f"costs {hours_text(each.gpu_hours)}"
    if each.verdict == "cannot say":
        return f"  {each.run}: cannot say: {each.reason}; {cost}"
    bounds = f"95 % interval {each.low:.4g} to {each.high:.4g}"
    return f"  {each.run}: {each.value:.4g}, {bounds}, {each.reason}; {cost}"


def _new_runs(family: NewRuns) -> list[str]:
    if not family.runs:
        return []
    head = ("  new run", "kind", f"{ACCELERATOR} time", "then +-", "narrowing per hour")
    rows = [
        (
            f"  {each.run}",
            each.kind,
            hours_text(each.gpu_hours),
            f"{each.half_width:.2g}",
            f"{each.narrowing_per_gpu_hour:.2g}",
        )
        for each in family.runs[:MOST_NEW_RUNS]
    ]
    return [aligned([head, *rows])]


def _sentences(each: RunAdvice) -> list[str]:
    return [f"  {each.run}: {each.reason}", *(f"      {note}" for note in each.notes)]


def _costs(advice: Advice) -> str:
    head = ("run", "verdict", "tokens", "planned", "extend to", f"{ACCELERATOR} time", "saved")
    rows = [
        (
            each.run,
            each.verdict,
            count_text(each.tokens),
            count_text(each.tokens_planned),
            "-" if each.to_tokens is None else count_text(each.to_tokens),
            "-" if each.gpu_hours is None else hours_text(each.gpu_hours),
            "-" if each.saved_gpu_hours is None else hours_text(each.saved_gpu_hours),
        )
        for each in advice.runs
    ]
    return aligned([head, *rows])
