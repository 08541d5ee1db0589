"""The states of a run, as they stand in the table `runs`, in the metrics and on screen."""

from __future__ import annotations

from enum import StrEnum


class RunState(StrEnum):
    """The state of a run; the values stand in the table `runs`."""

    PLANNED = "planned"
    """Nothing is started for it: it waits for its turn, or for the pause after a failure."""
    WAITING = "waiting"
    """Its gang waits for a place on the cluster, or is starting."""
    TRAINING = "training"
    MEASURING = "measuring"
    """All its checkpoints are there; the final measurement is not."""
    DONE = "done"
    FAILED = "failed"
    """Given up; running the study again tries it again."""
    STOPPED = "stopped"
    """By request; resuming the study, or the run, goes on with it."""

    @property
    def ended(self) -> bool:
        """Whether nothing more comes of the run by itself."""
        return self in (RunState.DONE, RunState.FAILED, RunState.STOPPED)
