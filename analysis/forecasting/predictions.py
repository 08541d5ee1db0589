"""What the laws of a run predict: a ratio at some tokens, or the tokens to a ratio."""

from __future__ import annotations

from typing import Any

from sparsing.analysis.evidence.evidence import Evidence
from sparsing.analysis.fitting.fit_table import verdict_text
from sparsing.analysis.refitting.fit_rows import weigh_again
from sparsing.analysis.refitting.newest import newest_fits
from sparsing.study.definition.values import token_count
from sparsing.study.errors import NotFoundError
from sparsing.study.plan.runs import find_run, plan_runs
from sparsing.study.store.study_store import StudyStore


def predictions_document(
    store: StudyStore, run: str, tokens: str | float | None, ratio: float | None
) -> dict[str, Any]:
    """What a run's newest fits say, as a document for JSON; one of tokens and ratio is given.

    Raises NotFoundError for a run that is not there or has no fit, DefinitionError for numbers
    that cannot be.
    """
    answers = [
        {
            "run": run,
            "law": each.fit.law,
            **(_to(each, ratio) if tokens is None else _at(each, tokens)),
            "law_verdict": each.verdict.word,
            "law_verdict_reason": each.verdict.reason,
        }
        for each in run_evidence(store, run)
    ]
    return {"study": store.study_id, "run": run, "predictions": answers}


def run_evidence(store: StudyStore, run: str) -> list[Evidence]:
    """The evidence of a run, one for each law fitted, made again from what the fits rest on."""
    find_run(plan_runs(store.study), run, store.study_id)
    rows = newest_fits(store, run)
    if rows.is_empty():
        raise NotFoundError(f"run {run} has no fit yet: fewer than two measured points")
    return [weigh_again(row) for row in rows.iter_rows(named=True)]


def _at(evidence: Evidence, text: str | float) -> dict[str, Any]:
    tokens = token_count(text, f"tokens = {text}")
    answer = evidence.predict(tokens)
    factor = evidence.extrapolation(tokens)
    reason = None
    if not evidence.answers:
        reason = "the points are too few"
    elif not answer.identified:
        farthest = evidence.farthest_tokens / evidence.last_tokens
        reason = f"{factor:.3g} times the tokens measured; forecasts are made up to {farthest:g}"
    return {
        "tokens": tokens,
        "extrapolation_factor": factor,
        "activation_ratio": answer.value,
        "interval": [answer.low, answer.high],
        "verdict": "predicted" if reason is None else "cannot say",
        "reason": reason,
    }


def _to(evidence: Evidence, ratio: float | None) -> dict[str, Any]:
    assert ratio is not None
    answer = evidence.tokens_to(ratio).as_dict()
    tokens = answer["tokens"]
    factor = None if tokens is None else evidence.extrapolation(tokens)
    bounds = {"interval": [answer.pop("low"), answer.pop("high")]}
    return answer | bounds | {"extrapolation_factor": factor}


def sentence(answer: dict[str, Any]) -> str:
    """A prediction for people, from a row of `predictions_document`."""
    said, verdict = answer["run"], answer["verdict"]
    low, high = (f"{b:.4g}" if b is not None else "open" for b in answer["interval"])
    on_law = verdict_text(answer["law_verdict"], answer["law_verdict_reason"])
    law = f"; the {answer['law']} law {on_law}"
    if "ratio" not in answer:
        said += f": activation ratio at {answer['tokens']:.4g} tokens"
        if verdict == "cannot say":
            return f"{said}: cannot say: {answer['reason']}{law}"
        far = f"{answer['extrapolation_factor']:.3g} times the tokens measured"
        value = f"{answer['activation_ratio']:.4g}"
        return f"{said}: {value}, 95 % interval {low} to {high}, at {far}{law}"
    said += f": activation ratio {answer['ratio']:g}"
    if verdict == "reached":
        far = f"{answer['extrapolation_factor']:.3g} times the tokens measured"
        at = f"{answer['tokens']:.4g} tokens"
        return f"{said} at {at}, 95 % interval {low} to {high}, at {far}{law}"
    since = f"; not before {low} tokens" if verdict == "cannot say" and low != "open" else ""
    return f"{said}: {verdict}: {answer['reason']}{since}{law}"
