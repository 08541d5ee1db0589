"""What the newest laws of a run predict: a ratio at some tokens, or the tokens to a ratio."""

from __future__ import annotations

from typing import Any

from sparsing.analysis.fitting.fit import Fit
from sparsing.analysis.refitting.fit_rows import fit_again
from sparsing.analysis.refitting.newest import newest_fits
from sparsing.study.definition.values import token_count
from sparsing.study.errors import NotFoundError
from sparsing.study.plan.runs import find_run, plan_runs
from sparsing.study.store.study_store import StudyStore


def predictions_document(
    store: StudyStore, run: str, tokens: str | float | None, ratio: float | None
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


def _at(fit: Fit, text: str | float) -> dict[str, Any]:
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
