"""What a failure is, and what follows from it: pure decisions, which import neither Ray nor torch.

| kind | what happened | what follows |
|---|---|---|
| `node_lost` | the node died, was drained or pre-empted | restart; spends nothing |
| `shard_lost` | a shard's process died | restart |
| `hung` | no step for far longer than steps take | restart |
| `shard_failed` | a shard raised an error that says nothing better | restart |
| `disk` | the store refuses: full, read-only, not there | restart after a pause; spends nothing |
| `not_finite` | loss or gradient norm is NaN or infinite | roll back, and replace the batch |
| `spike` | loss above `stability.spike_factor` times its median | likewise |
| `out_of_memory` | a shard needs more memory than there is | the run is failed |
| `bad_input` | data, checkpoint or definition cannot be used | the run is failed |
| `checkpoint_damaged` | the newest checkpoint is not what was saved | set aside; trained again |
| `replay_differs` | a step trained again gives another loss | said; the run goes on |
| `measurer_lost` | a measurer's process died | another measurer |
| `measuring_failed` | a measurement raised an error | the run is failed |

What a restart may spend is bounded per progress: RESTARTS of them from the same checkpoint. A new
checkpoint makes the account full again, and so does running a failed run again. The account is
kept in the table `runs`, so that it outlives the controller.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sparsing.actors.training.run_failure import RunFailure
from sparsing.study.definition.model import Stability
from sparsing.study.status.failure import Kind

RESTARTS = 2
"""Restarts from one checkpoint that failures of a run may spend."""
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 5.0, 300.0
"""The first restart from a checkpoint is made at once, the others after pauses that double."""
OWN_FAULTS = frozenset({Kind.OUT_OF_MEMORY, Kind.BAD_INPUT, Kind.MEASURING_FAILED})
"""Of the run itself: another attempt would end the same way."""
UNSTABLE = frozenset({Kind.NOT_FINITE, Kind.SPIKE})
FREE = frozenset({Kind.NODE_LOST, Kind.DISK, Kind.CHECKPOINT_DAMAGED})
"""Nothing that a run can do about: restarted as often as it happens."""


@dataclass(frozen=True, kw_only=True)
class PastFailure:
    """A failure that the store remembers."""

    kind: Kind
    checkpoint_step: int
    """Of the newest complete checkpoint when it happened; 0 before the first."""
    batch_step: int | None = None
    """Step whose batch was replaced because of it."""
    forgiven: bool = False
    """The run was given up and run again since: only its replaced batch still counts."""


@dataclass(frozen=True, kw_only=True)
class Restart:
    """The run goes on from its newest complete checkpoint."""

    pause_seconds: float = 0.0
    batch_step: int | None = None
    """Step whose batch is replaced from now on."""


@dataclass(frozen=True, kw_only=True)
class GiveUp:
    """The run is failed."""

    why: str | None = None
    """Said after the failure's own words."""


def decide(
    failure: RunFailure, past: Sequence[PastFailure], checkpoint_step: int, stability: Stability
) -> Restart | GiveUp:
    """What follows from a failure.

    Args:
        failure: the newest.
        past: all before it, oldest first.
        checkpoint_step: of the newest complete checkpoint; 0 before the first.
        stability: the definition's policy for losses.
    """
    if failure.kind in OWN_FAULTS:
        return GiveUp()
    here = [p for p in past if p.checkpoint_step == checkpoint_step and not p.forgiven]
    if failure.kind in UNSTABLE:
        return _decide_batch(failure, past, here, stability)
    measuring = failure.kind == Kind.MEASURER_LOST
    alike = [p for p in here if (p.kind == Kind.MEASURER_LOST) == measuring]
    spent = sum(p.kind not in FREE | UNSTABLE for p in alike)
    if failure.kind not in FREE and spent >= RESTARTS:
        return GiveUp(why=f"{spent + 1} failures at one checkpoint (step {checkpoint_step})")
    before = sum(p.kind not in UNSTABLE for p in alike) + (failure.kind == Kind.DISK)
    return Restart(pause_seconds=pause_seconds(before))


def _decide_batch(
    failure: RunFailure,
    past: Sequence[PastFailure],
    here: Sequence[PastFailure],
    stability: Stability,
) -> Restart | GiveUp:
    if failure.kind == Kind.NOT_FINITE and stability.not_finite == "fail":
        return GiveUp(why="stability.not_finite = fail")
    if failure.batch_step in replaced_batches(past):
        return GiveUp(why="also with another batch in its place")
    replaced = len(replaced_batches(here))
    if replaced >= stability.max_replaced:
        return GiveUp(why=f"{replaced} batches since the last checkpoint were replaced already")
    return Restart(batch_step=failure.batch_step)


def pause_seconds(failures_before: int) -> float:
    """Pause before a restart, by the number of failures at the same checkpoint before it."""
    if not failures_before:
        return 0.0
    doublings = min(failures_before - 1, 30)
    return min(FIRST_PAUSE_SECONDS * 2**doublings, LAST_PAUSE_SECONDS)


def replaced_batches(past: Iterable[PastFailure]) -> tuple[int, ...]:
    """Steps whose batches are replaced, in the order in which that was decided."""
    return tuple(dict.fromkeys(p.batch_step for p in past if p.batch_step is not None))


def most_telling(failures: Sequence[RunFailure]) -> RunFailure:
    """Of the failures of a gang's shards the one that explains the others.

    A shard whose peer is gone fails too, and says only that the connection is closed.
    """
    order = list(Kind)
    return min(failures, key=lambda failure: order.index(failure.kind))
