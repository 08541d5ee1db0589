"""A shard that nobody waits for any more ends its process, and so frees its device.

A thread of its own looks, whatever the others wait for: a collective whose peer is gone waits for
half an hour. A shard is an orphan

- when a newer attempt of its run, or a newer controller, is in the store (the fence);
- when its controller's lease stands unchanged in the store for LEASE_SECONDS;
- when neither the store nor Ray's control service has answered for BLIND_SECONDS.

Either alone is none: the store may pause and Ray's head be started again, and training goes on. One
whose raylet has ended is ended by Ray.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from sparsing.actors.training.fence import Fence
from sparsing.study.errors import FencedError, SparsingError
from sparsing.study.store.control.lease_watch import LeaseWatch
from sparsing.study.store.io.objects import ObjectStoreError

LOOK_SECONDS = 5.0
LEASE_SECONDS = 20.0
"""Of looks without a gap: a lease counts for 15 s."""
BLIND_SECONDS = 20.0


class StoreSight:
    """What the store says about whether a shard is still wanted."""

    def __init__(self, study_path: Path, fence: Fence) -> None:
        self._study_path, self._fence = study_path, fence
        self._lease = LeaseWatch(study_path)
        self._looked: float | None = None

    def look(self, now: float) -> str | None:
        """Why the shard is an orphan, or None; raises OSError where the store does not answer.

        Args:
            now: of a monotonic clock.
        """
        if self._looked is None or now - self._looked > 2 * LOOK_SECONDS:
            # After a pause of the store the lease's holder has to have time to renew it.
            self._lease = LeaseWatch(self._study_path)
        try:
            self._fence.check()
        except FencedError as error:
            return str(error)
        sight = self._lease.look()
        self._looked = now
        renewable = sight.record is not None and not sight.record.released
        if renewable and sight.age_seconds >= LEASE_SECONDS:
            return f"the study's controller has given no sign for {sight.age_seconds:.0f} s"
        return None


class OrphanWatch:
    """Ends this process when its shard is an orphan.

    Args:
        sight: of the store.
        is_cut_off: whether Ray's control service does not answer.
        end: called once, with the reason.
    """

    def __init__(
        self,
        sight: StoreSight,
        is_cut_off: Callable[[], bool],
        end: Callable[[str], None] | None = None,
    ) -> None:
        self._sight, self._is_cut_off, self._end = sight, is_cut_off, end or end_process
        self._seen_at = time.monotonic()
        self._reason: str | None = None

    def start(self) -> None:
        """Watch from now on, on threads: a look at the store may wait for ever."""
        for name, work in (("orphan: store", self._look_on), ("orphan: end", self._judge_on)):
            threading.Thread(target=work, name=name, daemon=True).start()

    def look(self) -> None:
        """Look at the store once."""
        now = time.monotonic()
        try:
            reason = self._sight.look(now)
        except (OSError, ObjectStoreError, SparsingError):
            return
        self._seen_at = now
        self._reason = self._reason or reason

    def judge(self) -> str | None:
        """Why the shard is an orphan now, or None."""
        if self._reason:
            return self._reason
        blind_seconds = time.monotonic() - self._seen_at
        if blind_seconds >= BLIND_SECONDS and self._is_cut_off():
            return f"neither the store nor the cluster has answered for {blind_seconds:.0f} s"
        return None

    def _look_on(self) -> None:
        while True:
            self.look()
            time.sleep(LOOK_SECONDS)

    def _judge_on(self) -> None:
        while not (reason := self.judge()):
            time.sleep(1.0)
        self._end(reason)


def end_process(reason: str) -> None:
    """End this process at once, without its exit handlers: some wait for other shards."""
    sys.stderr.write(f"this shard ends itself: {reason}\n")
    sys.stderr.flush()
    os._exit(1)
