"""Advice as people read it."""

from __future__ import annotations

from sparsing.analysis.forecasting.advice import Advice
from sparsing.analysis.forecasting.new_runs import NewRuns
from sparsing.analysis.forecasting.planned import PlannedRun
from sparsing.analysis.forecasting.run_advice import RunAdvice
from sparsing.analysis.forecasting.target import LOOK_LEVEL
from sparsing.study.display.table import table
from sparsing.study.plan.runs import ACCELERATOR
from sparsing.study.units import count_text, hours_text

MOST_NEW_RUNS = 5
"""This number is shown for each family; all are in the JSON document."""
MEANING = {
    "stop": "can stop: more tokens are not needed",
    "done": "done: ended, and known precisely enough",
    "extend": "must go on",
    "cannot say": "cannot say",
}


def advice_text(advice: Advice) -> str:
    """The advice on all runs, in sentences and two tables."""
    wish = advice.wish
    wished = f"wished is the {wish.name} within {wish.precision_text}"
    lines = [f"study {advice.study}: {wished} (half width of the {LOOK_LEVEL:.1%} interval)"]
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
    numbers = (f"{ACCELERATOR} time", "then +-", "narrowing per hour")
    shown = table(("  new run", "kind", *numbers), right=numbers)
    for each in family.runs[:MOST_NEW_RUNS]:
        shown.add(
            f"  {each.run}",
            each.kind,
            hours_text(each.gpu_hours),
            f"{each.half_width:.2g}",
            f"{each.narrowing_per_gpu_hour:.2g}",
        )
    return [shown.text()]


def _sentences(each: RunAdvice) -> list[str]:
    return [f"  {each.run}: {each.reason}", *(f"      {note}" for note in each.notes)]


def _costs(advice: Advice) -> str:
    numbers = ("tokens", "planned", "extend to", f"{ACCELERATOR} time", "saved")
    shown = table(("run", "verdict", *numbers), right=numbers)
    for each in advice.runs:
        shown.add(
            each.run,
            each.verdict,
            count_text(each.tokens),
            count_text(each.tokens_planned),
            "-" if each.to_tokens is None else count_text(each.to_tokens),
            "-" if each.gpu_hours is None else hours_text(each.gpu_hours),
            "-" if each.saved_gpu_hours is None else hours_text(each.saved_gpu_hours),
        )
    return shown.text()
