"""How many more tokens a run needs until it is known well enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sparsing.analysis.evidence.evidence import Evidence
from sparsing.analysis.forecasting.continuations import Continuation, continuations
from sparsing.analysis.laws.sparsity import Floats, Integers
from sparsing.study.definition.model import Study
from sparsing.study.plan.runs import Run

Enough = Callable[[Evidence], bool]

FUTURES = 9
"""Their median is the estimate; a tenth lies between their ends four times in five."""
FARTHEST = 16
"""Tokens are sought up to this multiple of the planned ones."""
LENGTHS = 16
"""Lengths of an extension that are looked at: about a fifth apart."""


class Needed(NamedTuple):
    """Tokens of the whole run at which it is known well enough; None = beyond the search."""

    tokens: float | None
    """The median of the futures."""
    low: float | None
    high: float | None
    """The least and the most that a future needs: what comes lies between with about 80 %."""


def tokens_needed(evidence: Evidence, enough: Enough, further: Floats, *, seed: int = 0) -> Needed:
    """The tokens that a run needs, if it is measured at the rising token counts `further` (m,).

    `enough` says whether the evidence of more points is good enough.
    """
    if not len(further):
        return Needed(None, None, None)
    lengths = np.unique(np.geomspace(1, len(further), LENGTHS).round().astype(int))
    possible = continuations(evidence, FUTURES, seed=seed)
    found = [_first_enough(each, enough, further, lengths) for each in possible]
    if not found:
        return Needed(None, None, None)
    ordered = [float(each) if np.isfinite(each) else None for each in np.sort(found)]
    return Needed(ordered[FUTURES // 2], ordered[0], ordered[-1])


def _first_enough(
    future: Continuation, enough: Enough, further: Floats, lengths: Integers
) -> float:
    """By bisection, for more points make a fit better; inf where all of them do not do."""

    def reached(index: int) -> bool:
        return enough(future.after(further[: lengths[index]]))

    too_few, index = -1, len(lengths) - 1
    if not reached(index):
        return float("inf")
    while index - too_few > 1:
        middle = (too_few + index) // 2
        if reached(middle):
            index = middle
        else:
            too_few = middle
    return float(further[lengths[index] - 1])


def further_checkpoints(study: Study, run: Run, after: float) -> Floats:
    """Token counts beyond `after` at which a run would be measured, up to FARTHEST times its plan.

    The planned ones of the stable stage first; then it goes on as they were spaced, by equal
    steps or, where the definition says so, by equal ratios.
    """
    stable = (run.steps - run.decay_steps) * run.batch_tokens
    planned = [float(step * run.batch_tokens) for step in run.checkpoint_steps]
    planned = [at for at in planned if at <= stable] or [float(stable)]
    before, last = planned[-2] if len(planned) > 1 else 0.0, planned[-1]
    bound = float(FARTHEST * run.tokens)
    log = study.checkpoints.spacing == "log" and study.checkpoints.tokens is None and before > 0
    if log:
        count = int(np.log(bound / last) / np.log(last / before))
        beyond = last * (last / before) ** np.arange(1, count + 1)
    else:
        beyond = np.arange(last + (last - before), bound, last - before)
    at = np.concatenate([planned, beyond])
    return at[at > after]
