"""Hears the heartbeats of a gang over Ray, for the watchdog."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import ray

from sparsing.actors.orchestration.watchdog import Watchdog
from sparsing.actors.training.heartbeat import Heartbeat
from sparsing.actors.training.run_failure import RunFailure
from sparsing.study.status.failure import Kind

TICK_SECONDS = 1.0
"""The controller polls a gang about this often, unless it is kept from it."""


class HeartbeatWatch:
    """Asks a gang's shard 0 for its heartbeat, and finds out when it hangs; never waits."""

    def __init__(self, shard: Any, hang_seconds: float) -> None:
        self._shard = shard
        self._asked: Any = None
        self._next = self._last = time.monotonic()
        self._watchdog = Watchdog(hang_seconds, self._next)

    def look(self) -> Heartbeat:
        """Take an answer that has come, ask again when it is time; the newest heartbeat.

        Raises:
            RunFailure: the gang hangs.
        """
        now = time.monotonic()
        # A controller that was busy or stopped heard nothing, and takes nobody for dead.
        self._watchdog.forgive(max(0.0, now - self._last - TICK_SECONDS))
        self._last = now
        if self._asked is not None and is_ready(self._asked):
            # If the shard is dead, its own task says so.
            with suppress(ray.exceptions.RayError):
                self._watchdog.hear(ray.get(self._asked), now)
            self._asked = None
        if self._asked is None and now >= self._next:
            self._asked = self._shard.heartbeat.remote()
            self._next = now + self._watchdog.ask_seconds()
        if hang := self._watchdog.hang(now):
            raise RunFailure(hang, Kind.HUNG)
        return self._watchdog.heartbeat


def is_ready(reference: Any) -> bool:
    """Whether what a reference stands for is there."""
    return bool(ray.wait([reference], timeout=0)[0])
