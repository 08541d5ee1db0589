"""Advice on one run that has been measured: stop, extend, done, or cannot say."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal

from sparsing.analysis.evidence.evidence import Evidence
from sparsing.analysis.fitting.comparison import Criteria
from sparsing.analysis.forecasting.extension import (
    FARTHEST,
    Needed,
    further_checkpoints,
    tokens_needed,
)
from sparsing.analysis.forecasting.target import LOOK_LEVEL, Estimate, Wish
from sparsing.analysis.refitting.fit_rows import weigh_again
from sparsing.study.definition.model import Study
from sparsing.study.guarded_json import read_json
from sparsing.study.plan.runs import Cost
from sparsing.study.status.study_status import RunStatus
from sparsing.study.units import count_text

Verdict = Literal["stop", "done", "extend", "cannot say"]


@dataclass(frozen=True, kw_only=True)
class RunAdvice:
    """What to do with a run; counts are plain tokens of the whole run, hours those of an A800."""

    run: str
    verdict: Verdict
    """`stop`: precise enough, and still to train. `done`: precise enough, and ended. `extend`: to
    `to_tokens`. `cannot say`: see `reason`."""
    reason: str
    state: str
    law: str | None = None
    law_verdict: str | None = None
    """`holds`, `undecided`, `refused` or `cannot say`; a run whose law is refused never stops."""
    law_verdict_reason: str | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    """The wished quantity by all laws that the points cannot refuse, with its interval; None =
    open."""
    level: float = LOOK_LEVEL
    """Of the interval."""
    half_width: float | None = None
    """Of that interval; relative to the value unless the precision is absolute; None = open."""
    tokens: float
    """Trained so far."""
    tokens_measured: float | None = None
    """Of the newest point that the advice rests on."""
    points: int | None = None
    """Points that it rests on."""
    tokens_planned: float
    to_tokens: float | None = None
    """Where the quantity is expected to be precise enough: the median of what may come."""
    to_tokens_low: float | None = None
    to_tokens_high: float | None = None
    """About 80 % of what may come lies between them; None = beyond what is looked at."""
    gpu_hours: float | None = None
    """What the extension costs beyond `tokens`."""
    saved_gpu_hours: float | None = None
    """Of `stop`: what the rest of the plan would cost."""
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"notes": list(self.notes)}


@dataclass(frozen=True)
class Case:
    """A run, and what is known of it."""

    study: Study
    status: RunStatus
    cost: Cost
    rows: list[dict[str, Any]]
    """Its newest rows of the `fits` table, one for each law."""
    wish: Wish

    @property
    def row(self) -> dict[str, Any]:
        """The row of the law that fits best, by AICc."""

        def aicc(row: dict[str, Any]) -> float:
            found = _criteria(row).get(row["law"], {}).get("aicc")
            return float("inf") if found is None else found

        return min(self.rows, key=aicc)

    def evidence(self) -> Evidence:
        """The evidence of its curve, made again from the points that the fit rests on."""
        return weigh_again(self.row)

    @property
    def trained(self) -> float:
        """Tokens trained so far."""
        return float(max([self.status.tokens, *(row["tokens"] for row in self.rows)]))

    def hours(self, tokens: float) -> float:
        """GPU-hours from where the run is to `tokens`."""
        per_token = self.cost.gpu_hours / self.cost.run.tokens
        return max(0.0, tokens - self.trained) * per_token


def _criteria(row: dict[str, Any]) -> dict[str, Criteria]:
    return read_json(row["criteria"] or "{}", "fits.criteria")


def advise_run(case: Case, evidence: Evidence) -> RunAdvice:
    """The advice on a run with this evidence."""
    estimate = case.wish.of(evidence)
    if not evidence.fit.trend:
        return _advice(case, evidence, estimate, "cannot say", "; ".join(evidence.fit.warnings))
    if not known_well(case.wish, evidence):
        return _extension(case, evidence, estimate)
    known = _known(case.wish, estimate)
    if case.status.ended or case.trained >= case.cost.run.tokens:
        return _advice(case, evidence, estimate, "done", known)
    saved = case.hours(case.cost.run.tokens)
    return _advice(case, evidence, estimate, "stop", known, saved_gpu_hours=saved)


def known_well(wish: Wish, evidence: Evidence) -> bool:
    """Whether the quantity is known as wished, by a curve whose law the data do not refuse."""
    return wish.miss(wish.of(evidence)) <= 1 and evidence.verdict.word in ("holds", "undecided")


def without_fit(case: Case) -> RunAdvice:
    """The advice on a run that was started, but has no fit yet."""
    return RunAdvice(
        run=case.cost.run.id,
        verdict="cannot say",
        reason="no fit yet: fewer than two measured points",
        state=case.status.state,
        tokens=case.trained,
        tokens_planned=float(case.cost.run.tokens),
        notes=_state_notes(case),
    )


def _extension(case: Case, evidence: Evidence, estimate: Estimate) -> RunAdvice:
    wish, planned = case.wish, case.cost.run.tokens
    further = further_checkpoints(case.study, case.cost.run, float(case.row["tokens"]))
    needed = tokens_needed(evidence, lambda longer: known_well(wish, longer), further)
    goal = wish.precision_text
    now = _known(wish, estimate)
    if wish.miss(estimate) <= 1:
        now += f", but its law is {evidence.verdict}"
        goal = "a law that holds"
    if needed.tokens is None:
        why = f"{now}; {goal} is not expected within {FARTHEST} times the plan"
        if needed.low is not None:
            why += f", only in the best cases, from {count_text(needed.low)} tokens on"
        return _advice(case, evidence, estimate, "cannot say", why, to_tokens_low=needed.low)
    why = f"{now}; {goal} is expected at {count_text(needed.tokens)} tokens ({_span(needed)}), "
    inside = needed.tokens <= planned
    why += "inside the plan" if inside else f"{needed.tokens / planned:.3g} times the plan"
    return _advice(
        case,
        evidence,
        estimate,
        "extend",
        why,
        to_tokens=needed.tokens,
        to_tokens_low=needed.low,
        to_tokens_high=needed.high,
        gpu_hours=case.hours(needed.tokens),
    )


def _advice(
    case: Case,
    evidence: Evidence,
    estimate: Estimate,
    verdict: Verdict,
    reason: str,
    **numbers: Any,
) -> RunAdvice:
    width = case.wish.miss(estimate) * case.wish.precision
    law = evidence.verdict
    return RunAdvice(
        run=case.cost.run.id,
        verdict=verdict,
        reason=reason,
        state=case.status.state,
        law=evidence.fit.law,
        law_verdict=law.word,
        law_verdict_reason=law.reason,
        value=estimate.value if estimate.verdict == "known" else None,
        low=estimate.low,
        high=estimate.high,
        half_width=width if isfinite(width) else None,
        tokens=case.trained,
        tokens_measured=evidence.last_tokens,
        points=evidence.fit.n,
        tokens_planned=float(case.cost.run.tokens),
        notes=(*_state_notes(case), f"the {evidence.fit.law} law {law}"),
        **numbers,
    )


def _known(wish: Wish, estimate: Estimate) -> str:
    """`limit 0.0721 known to 2 %`, or how far it is from being known."""
    if estimate.verdict == "never":
        return f"{wish.name}: no law within the interval reaches it"
    if not isfinite(wish.miss(estimate)):
        return f"{wish.name} not identified yet"
    assert estimate.value is not None
    width = wish.width_text(wish.miss(estimate))
    return f"{wish.name} {wish.text(estimate.value)} known to {width}"


def _span(needed: Needed) -> str:
    low, high = (None if at is None else count_text(at) for at in (needed.low, needed.high))
    return f"{low} to {high or 'open'}"


def _state_notes(case: Case) -> tuple[str, ...]:
    if case.status.state != "failed":
        return ()
    return (f"the run failed: {case.status.reason or 'no reason is in the store'}",)
