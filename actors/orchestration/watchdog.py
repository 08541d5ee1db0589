"""The watchdog: whether a gang still gets on, told from a pulse that costs its steps nothing.

Pure: imports neither Ray nor torch. Shard 0 keeps a `Pulse`, two assignments a step, which a
second thread of its process reads when the controller asks. One shard is enough: where any shard
stands still, shard 0 waits for it in the next collective. A shard that does not even answer was
stopped with all its threads, or its node is out of reach; its silence counts as well.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from dataclasses import dataclass

STEPS_PER_HANG = 20.0
"""No step for so many times the median step is a hang; a garbage collection or a slow read of the
file system is not."""
WINDOW_STEPS = 64
"""The median is over so many of the newest steps."""
START_SECONDS = 900.0
"""Allowed for shard 0's process to start, and again for joining the gang, reading data and
checkpoint, and the first step, which compiles."""
SILENT_SECONDS = 120.0
"""A shard that answers nothing for so long hangs, whatever its phase: another thread answers."""
CHECKPOINT_SECONDS = 900.0
"""Allowed for a checkpoint and its evaluation at first."""
CHECKPOINTS_PER_HANG = 5.0
"""Later also so many times the longest checkpoint so far."""


@dataclass(frozen=True, kw_only=True)
class Beat:
    """What a pulse says: where the shard is, and since when."""

    phase: str
    """`start`, `step` or `checkpoint`."""
    step: int
    """Optimizer steps done in this attempt."""
    age_seconds: float
    """Since the phase began, or since the newest step was done."""
    step_seconds: float | None
    """Median of the newest steps; None before the second."""
    checkpoint_seconds: float
    """Longest checkpoint of this attempt; 0 before the first."""


class Pulse:
    """Kept by a shard while it works, read by another thread."""

    def __init__(self) -> None:
        self._phase, self._step, self._since = "start", 0, time.monotonic()
        self._seconds: deque[float] = deque(maxlen=WINDOW_STEPS)
        self._checkpoint_seconds = 0.0

    def stepped(self) -> None:
        """One more step is done."""
        now = time.monotonic()
        if self._phase == "step":
            self._seconds.append(now - self._since)
        self._phase, self._since = "step", now
        self._step += 1

    def checkpointing(self) -> None:
        """A checkpoint begins."""
        self._phase, self._since = "checkpoint", time.monotonic()

    def checkpointed(self) -> None:
        """The checkpoint is done; the next step begins."""
        now = time.monotonic()
        self._checkpoint_seconds = max(self._checkpoint_seconds, now - self._since)
        self._phase, self._since = "step", now

    def beat(self) -> Beat:
        """What it says now; called by another thread than those above."""
        while True:
            try:
                seconds = statistics.median(self._seconds) if self._seconds else None
                break
            except RuntimeError:  # the other thread has just added one
                continue
        return Beat(
            phase=self._phase,
            step=self._step,
            age_seconds=time.monotonic() - self._since,
            step_seconds=seconds,
            checkpoint_seconds=self._checkpoint_seconds,
        )


def allowed_seconds(beat: Beat, floor_seconds: float) -> float:
    """How long the phase of a beat may take before it is a hang, at least `floor_seconds`."""
    if beat.phase == "checkpoint":
        later = CHECKPOINTS_PER_HANG * beat.checkpoint_seconds
        return max(floor_seconds, later or CHECKPOINT_SECONDS)
    if beat.phase == "start" or beat.step_seconds is None:
        return max(floor_seconds, START_SECONDS)
    return max(floor_seconds, STEPS_PER_HANG * beat.step_seconds)


class Watchdog:
    """Watches one attempt by its beats; all times are of the watcher's own monotonic clock."""

    def __init__(self, floor_seconds: float, now: float) -> None:
        self._floor_seconds = floor_seconds
        self._heard = now
        self._beat = Beat(
            phase="start", step=0, age_seconds=0.0, step_seconds=None, checkpoint_seconds=0.0
        )

    def hear(self, beat: Beat, now: float) -> None:
        """Take a beat that has just been received."""
        self._beat, self._heard = beat, now

    def forgive(self, seconds: float) -> None:
        """So long the watcher itself was away: no silence of the gang."""
        self._heard += seconds

    def ask_seconds(self) -> float:
        """How often the pulse should be asked for: a hang is then found within twice its time."""
        return max(0.2, min(10.0, self._floor_seconds / 4))

    def hang(self, now: float) -> str | None:
        """What hangs, in words, or None."""
        beat, silent_seconds = self._beat, max(0.0, now - self._heard)
        still_seconds = beat.age_seconds + silent_seconds
        allowed = allowed_seconds(beat, self._floor_seconds)
        silence = max(self._floor_seconds, SILENT_SECONDS)
        if still_seconds <= allowed and silent_seconds <= silence:
            return None
        what = {
            "start": "no first step",
            "step": "no step",
            "checkpoint": "no end of its checkpoint",
        }[beat.phase]
        silent = (
            ", and no answer from shard 0" if silent_seconds > min(allowed, silence) / 2 else ""
        )
        most = min(allowed, silence) if silent else allowed
        return f"{what} for {still_seconds:.0f} s, {most:.0f} s are allowed{silent}"
