"""The heartbeat of a gang: where its shard 0 is, and since when.

Imports neither Ray nor torch. Shard 0 keeps a `HeartbeatRecorder`, two assignments a step, which a
second thread of its process reads when the controller asks. One shard is enough: where any shard
stands still, shard 0 waits for it in the next collective.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

WINDOW_STEPS = 64
"""The median step time is over this number of newest steps."""


class Phase(StrEnum):
    """What a shard does."""

    START = "start"
    STEP = "step"
    CHECKPOINT = "checkpoint"


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """What a shard answers when it is asked how it goes on."""

    phase: Phase
    step: int
    """Optimizer steps done in this attempt."""
    age_seconds: float
    """Since the phase began, or since the newest step was done."""
    step_seconds: float | None
    """Median of the newest steps; None before the second."""
    checkpoint_seconds: float
    """Longest checkpoint of this attempt; 0 before the first."""
    replay_difference: str | None = None
    """The first step that was trained again with another loss, in words."""


class HeartbeatRecorder:
    """Kept by a shard while it works, read by another thread."""

    def __init__(self) -> None:
        self._phase, self._step, self._since = Phase.START, 0, time.monotonic()
        self._seconds: deque[float] = deque(maxlen=WINDOW_STEPS)
        self._checkpoint_seconds = 0.0
        self.replay_difference: str | None = None
        """As in the heartbeat; set by the shard."""
        self.stop_asked = False
        """The shard is asked to save a recovery point after its next step, and to end; set by
        another thread."""

    def stepped(self) -> None:
        """One more step is done."""
        now = time.monotonic()
        if self._phase == Phase.STEP:
            self._seconds.append(now - self._since)
        self._phase, self._since = Phase.STEP, now
        self._step += 1

    def checkpointing(self) -> None:
        """A checkpoint begins."""
        self._phase, self._since = Phase.CHECKPOINT, time.monotonic()

    def checkpointed(self) -> None:
        """The checkpoint is done; the next step begins."""
        now = time.monotonic()
        self._checkpoint_seconds = max(self._checkpoint_seconds, now - self._since)
        self._phase, self._since = Phase.STEP, now

    def heartbeat(self) -> Heartbeat:
        """How it goes on now; called by another thread than those above."""
        while True:
            try:
                seconds = statistics.median(self._seconds) if self._seconds else None
                break
            except RuntimeError:  # the other thread has just added one
                continue
        return Heartbeat(
            phase=self._phase,
            step=self._step,
            age_seconds=time.monotonic() - self._since,
            step_seconds=seconds,
            checkpoint_seconds=self._checkpoint_seconds,
            replay_difference=self.replay_difference,
        )
