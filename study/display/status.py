"""How a study's status looks: a table on a terminal, one line for each event elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sparsing.study.display.table import Cell, Column, Table
from sparsing.study.units import count_text, duration_text

if TYPE_CHECKING:
    from sparsing.study.status.study_status import RunStatus, StudyStatus

COLOURS = {
    "planned": "dim",
    "waiting": "yellow",
    "training": "cyan",
    "measuring": "blue",
    "done": "green",
    "failed": "red",
    "stopped": "magenta",
}
ORDER = ("failed", "training", "measuring", "waiting", "planned", "stopped", "done")
"""What is shown first where not all runs have room."""


def status_table(status: StudyStatus, max_rows: int | None = None) -> Table:
    """A row for each run; at most `max_rows`, those that matter most, in the order of the plan."""
    numbers = ("tokens", "loss", "tokens/s", "left", "checkpoints", "activation", "newest row")
    headings = ("run", "state", *numbers[:-1], "limit, 95 %", numbers[-1])
    table = Table([Column(each, right=each in numbers) for each in headings], title=_title(status))
    shown = _most_important(status, max_rows)
    for run in shown:
        table.add(*_cells(run))
    table.notes = _notes(status, len(shown))
    return table


def studies_table(found: list[dict[str, Any]]) -> Table:
    """A row for each study of a store, or what is wrong with it: `StudyStatus.summary` of each."""
    columns = [Column("study"), Column("runs", prose=True)]
    table = Table([*columns, Column("tokens done", right=True), Column("newest row", right=True)])
    for row in found:
        if "error" in row:
            table.add(row["study"], Cell(row["error"], "red"), "", "")
            continue
        runs = ", ".join(f"{count} {state}" for state, count in row["states"].items() if count)
        share = f"{row['tokens'] / row['tokens_planned']:.1%}"
        table.add(row["study"], runs, share, duration_text(row["age_seconds"]))
    return table


def events(before: StudyStatus | None, now: StudyStatus) -> Iterator[str]:
    """A line for each thing that happened between two looks at a study."""
    if before is None:
        yield _title(now)
    if now.unattended and not (before and before.unattended):
        yield unattended_text(now)
    old = {run.run.id: run for run in before.runs} if before else {}
    for run in now.runs:
        for event in _events(old.get(run.run.id), run):
            yield f"{run.run.id}: {event}"


def unattended_text(status: StudyStatus) -> str:
    """That nobody works on a study, and what to type."""
    record = status.lease.record
    last = f"; the last was {record.owner}" if record else ""
    return (
        f"no controller is at work on {status.study_id}{last}: sparsing resume "
        f"{status.study_id} goes on (on a cluster with --address)"
    )


def limit_text(run: RunStatus) -> str:
    """`0.062 [0.051, 0.074], law holds`, `not identified, law refused`; an open end is `..`.

    Empty without a fit.
    """
    if run.law is None:
        return ""
    verdict = f", law {run.verdict}" if run.verdict in ("holds", "undecided", "refused") else ""
    if run.limit is None:
        return f"not identified{verdict}"
    low, high = (_digits(end, "..") for end in (run.limit_low, run.limit_high))
    return f"{_digits(run.limit)} [{low}, {high}]{verdict}"


def _title(status: StudyStatus) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in status.states.items() if count)
    return f"study {status.study_id}: {counts}"


def _most_important(status: StudyStatus, max_rows: int | None) -> list[RunStatus]:
    if max_rows is None or len(status.runs) <= max_rows:
        return list(status.runs)
    first = sorted(status.runs, key=lambda run: ORDER.index(run.state))[: max(max_rows, 1)]
    names = {run.run.id for run in first}
    return [run for run in status.runs if run.run.id in names]


def _notes(status: StudyStatus, shown: int) -> list[str]:
    notes = [
        f"{run.run.id}: {run.reason}"
        for run in status.runs
        if run.reason and run.state in ("failed", "planned", "waiting")
    ]
    if status.unattended:
        notes.append(status.lease.problem or unattended_text(status))
    if shown < len(status.runs):
        notes.append(f"and {len(status.runs) - shown} more runs")
    return notes


def _cells(run: RunStatus) -> tuple[str | Cell, ...]:
    attempt = f" ({run.attempt})" if run.attempt > 1 else ""
    ratio = f"{_digits(run.activation_ratio)} {run.stage}" if run.stage else ""
    return (
        run.run.id,
        Cell(run.state + attempt, COLOURS.get(run.state)),
        _tokens(run),
        _digits(run.loss),
        count_text(run.tokens_per_second) if run.tokens_per_second else "",
        duration_text(run.eta_seconds),
        f"{run.checkpoints}/{len(run.run.checkpoint_steps)}",
        ratio,
        limit_text(run),
        duration_text(run.age_seconds),
    )


def _events(before: RunStatus | None, now: RunStatus) -> Iterator[str]:
    old_state = (before.state, before.attempt) if before else ("planned", 0)
    if (now.state, now.attempt) != old_state:
        yield _state_event(now)
    if now.checkpoints != (before.checkpoints if before else 0):
        yield _checkpoint_event(now)
    measured = (now.activation_ratio, now.stage)
    if measured != ((before.activation_ratio, before.stage) if before else (None, None)):
        limit = f", limit {limit_text(now)}" if now.law else ""
        yield f"activation ratio {_digits(now.activation_ratio)} ({now.stage}){limit}"


def _state_event(now: RunStatus) -> str:
    attempt = f", attempt {now.attempt}" if now.attempt > 1 else ""
    device = f", on {now.device}" if now.state == "training" and now.device else ""
    return now.state + attempt + device + (f": {now.reason}" if now.reason else "")


def _checkpoint_event(now: RunStatus) -> str:
    text = f"checkpoint {now.checkpoints}/{len(now.run.checkpoint_steps)}, {_tokens(now)} tokens"
    if now.loss is not None:
        text += f", loss {_digits(now.loss)}"
    if now.tokens_per_second and now.eta_seconds is not None:
        speed = count_text(now.tokens_per_second)
        text += f", {speed} tokens/s, {duration_text(now.eta_seconds)} left"
    return text


def _tokens(run: RunStatus) -> str:
    return f"{count_text(run.tokens)} of {count_text(run.run.tokens)}"


def _digits(value: float | None, without: str = "") -> str:
    return without if value is None else f"{value:.3g}"
