"""The watchdog: whether a gang still goes on, told from its heartbeats.

Pure: imports neither Ray nor torch. A shard that does not even answer was stopped with all its
threads, or its node is out of reach: silence counts as well.
"""

from __future__ import annotations

from sparsing.actors.training.heartbeat import Heartbeat, Phase

STEPS_PER_HANG = 20.0
"""A gang hangs when no step ends within this many median steps; a garbage collection or a slow
read of the file system takes less."""
START_SECONDS = 900.0
"""Allowed for shard 0's process to start, and again for joining the gang, reading data and
checkpoint, and the first step, which compiles."""
SILENT_SECONDS = 120.0
"""A shard that answers nothing within this time hangs in any phase: another thread answers."""
CHECKPOINT_SECONDS = 900.0
"""Allowed for the first checkpoint and its evaluation."""
CHECKPOINTS_PER_HANG = 5.0
"""Later ones are allowed this many times the longest checkpoint before them."""

MISSED = {
    Phase.START: "no first step",
    Phase.STEP: "no step",
    Phase.CHECKPOINT: "no end of its checkpoint",
}


def allowed_seconds(heartbeat: Heartbeat, floor_seconds: float) -> float:
    """How long the phase of a heartbeat may take before it is a hang, at least `floor_seconds`."""
    if heartbeat.phase == Phase.CHECKPOINT:
        later = CHECKPOINTS_PER_HANG * heartbeat.checkpoint_seconds
        return max(floor_seconds, later or CHECKPOINT_SECONDS)
    if heartbeat.phase == Phase.START or heartbeat.step_seconds is None:
        return max(floor_seconds, START_SECONDS)
    return max(floor_seconds, STEPS_PER_HANG * heartbeat.step_seconds)


class Watchdog:
    """Watches one attempt by its heartbeats; all times are of the watcher's monotonic clock."""

    def __init__(self, floor_seconds: float, now: float) -> None:
        self._floor_seconds = floor_seconds
        self._heard = now
        self.heartbeat = Heartbeat(
            phase=Phase.START, step=0, age_seconds=0.0, step_seconds=None, checkpoint_seconds=0.0
        )
        """The newest."""

    def hear(self, heartbeat: Heartbeat, now: float) -> None:
        """Take a heartbeat that has just been received."""
        self.heartbeat, self._heard = heartbeat, now

    def forgive(self, seconds: float) -> None:
        """For this time the watcher itself was away: it is no silence of the gang."""
        self._heard += seconds

    def ask_seconds(self) -> float:
        """Time between questions: a hang is then found within twice its time."""
        return max(0.2, min(10.0, self._floor_seconds / 4))

    def hang(self, now: float) -> str | None:
        """What hangs, in words, or None."""
        heartbeat, silent_seconds = self.heartbeat, max(0.0, now - self._heard)
        still_seconds = heartbeat.age_seconds + silent_seconds
        allowed = allowed_seconds(heartbeat, self._floor_seconds)
        silence = max(self._floor_seconds, SILENT_SECONDS)
        if still_seconds <= allowed and silent_seconds <= silence:
            return None
        is_silent = silent_seconds > min(allowed, silence) / 2
        most = min(allowed, silence) if is_silent else allowed
        silent = ", and no answer from shard 0" if is_silent else ""
        missed = MISSED[heartbeat.phase]
        return f"{missed} for {still_seconds:.0f} s, {most:.0f} s are allowed{silent}"
