"""Whether a study is healthy, in one sentence, and when it will be done; from its status."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sparsing.study.display.status import unattended_text
from sparsing.study.status.study_status import SILENT_SECONDS, RunStatus, StudyStatus
from sparsing.study.units import duration_text

MANY_RESTARTS = 3
"""More restarts of a run than this are trouble."""
AT_WORK = ("training", "measuring")

Level = Literal["failed", "attention", "healthy", "done", "planned"]


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """One thing that somebody should look at."""

    kind: Literal["failed", "silent", "restarts", "loss", "notice", "controller", "service"]
    run: str | None
    """The run that it is about; None: the study's controller, or its law service."""
    text: str
    """What is wrong, for people; a failed run's reason comes from the store as it is."""


@dataclass(frozen=True, kw_only=True)
class Health:
    """How a study does."""

    level: Level
    summary: str
    troubles: tuple[Trouble, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def health(status: StudyStatus, problem: str | None) -> Health:
    """How a study does, by its status and by what its law service lacks, if anything."""
    found = [trouble for run in status.runs for trouble in _troubles(run)]
    if status.unattended:
        text = status.lease.problem or unattended_text(status)
        found.append(Trouble(kind="controller", run=None, text=text))
    if problem is not None:
        found.append(Trouble(kind="service", run=None, text=f"law service: {problem}"))
    return Health(level=_level(status, found), summary=_summary(status, found), troubles=(*found,))


def done_seconds(status: StudyStatus) -> float | None:
    """Seconds until all runs are done, if what trains now goes on at this speed; None: unknown.

    A token of a run costs as its parameters do; failed runs are not waited for.
    """
    left = sum(_cost(run, run.run.tokens - run.tokens) for run in status.runs if not run.ended)
    speed = sum(_cost(run, run.tokens_per_second or 0.0) for run in status.runs)
    return left / speed if speed else None


def _cost(run: RunStatus, tokens: float) -> float:
    return max(0.0, tokens) * run.run.parameters


def _troubles(run: RunStatus) -> list[Trouble]:
    name, found = run.run.id, []
    if run.state == "failed":
        found.append(Trouble(kind="failed", run=name, text=run.reason or "no reason was written"))
    if run.state in AT_WORK and (run.age_seconds or 0.0) > SILENT_SECONDS:
        text = f"{run.state}, but has written nothing for more than {duration_text(SILENT_SECONDS)}"
        found.append(Trouble(kind="silent", run=name, text=text))
    if not run.ended and run.attempt > MANY_RESTARTS:
        text = f"was started again {run.attempt - 1} times"
        found.append(Trouble(kind="restarts", run=name, text=text))
    if run.loss is not None and not math.isfinite(run.loss):
        found.append(Trouble(kind="loss", run=name, text="its loss is no finite number"))
    found += [Trouble(kind="notice", run=name, text=text) for text in run.notices]
    return found


def _level(status: StudyStatus, found: list[Trouble]) -> Level:
    if any(trouble.kind == "failed" for trouble in found):
        return "failed"
    if found:
        return "attention"
    if status.ended:
        return "done"
    return "planned" if status.states["planned"] == len(status.runs) else "healthy"


def _summary(status: StudyStatus, found: list[Trouble]) -> str:
    count = len(status.runs)
    kinds = [trouble.kind for trouble in found]
    said = [
        f"{kinds.count(kind)} {'run' if kinds.count(kind) == 1 else 'runs'} {words}"
        for kind, words in (
            ("failed", "failed"),
            ("silent", "silent"),
            ("restarts", "restarted often"),
            ("loss", "without a finite loss"),
            ("notice", "with damaged checkpoints or replays that differ"),
        )
        if kind in kinds
    ]
    said += ["no controller is at work"] if "controller" in kinds else []
    said += ["the law service is not well"] if "service" in kinds else []
    active = ", ".join(f"{status.states[each]} {each}" for each in AT_WORK if status.states[each])
    if active:
        said.append(f"{active} of {count} runs")
    elif status.ended:
        said.append(f"{status.states['done']} of {count} runs done")
    else:
        said.append(f"nothing is training; {status.states['done']} of {count} runs done")
    text = "; ".join(said)
    return text[0].upper() + text[1:]
