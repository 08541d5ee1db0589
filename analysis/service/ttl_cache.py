"""A value that is dear to make, kept until it is old."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

SHARE = 4
"""Making it again takes at most about one part in so many, plus one, of the time."""
PATIENCE_SECONDS = 0.1
"""Who asks waits so long for a newer value where there is an old one."""
OLDEST_SECONDS = 30.0
"""A value that nobody asked for so long after it was old is no answer any more."""

T = TypeVar("T")


class Kept(Generic[T]):
    """What `make` gives, at most `seconds` old, or as old as SHARE times what making it took.

    version: where given, an older value still counts while this says what it said before the
    making. For any number of threads: one makes, the others wait for it, or take the old value
    where the making takes longer than PATIENCE_SECONDS.
    """

    def __init__(
        self,
        make: Callable[[], T],
        seconds: float,
        version: Callable[[], object] | None = None,
    ) -> None:
        self._make, self._seconds, self._version = make, seconds, version
        self._lock = threading.Lock()
        self._kept: tuple[T, object] | None = None
        self._making: Future[T] | None = None
        self._good_until = 0.0

    def get(self) -> T:
        """The value; raises what `make` raises, and then keeps nothing."""
        with self._lock:
            kept, late_seconds = self._kept, time.monotonic() - self._good_until
            if kept is not None and late_seconds < 0:
                return kept[0]
            if self._making is None:
                self._making = Future()
                threading.Thread(target=self._renew, args=(self._making,), daemon=True).start()
            making = self._making
        if kept is None or late_seconds > OLDEST_SECONDS:
            return making.result()
        try:
            return making.result(PATIENCE_SECONDS)
        except TimeoutError:
            if making.done():  # then it is the error of the making itself
                raise
            return kept[0]

    def _renew(self, making: Future[T]) -> None:
        began = time.monotonic()
        try:
            version = self._version() if self._version else None
            kept = self._kept
            if kept is None or self._version is None or version != kept[1]:
                kept = (self._make(), version)
        except BaseException as error:
            with self._lock:
                self._kept, self._making = None, None
            making.set_exception(error)
            return
        took = time.monotonic() - began
        with self._lock:
            self._kept, self._making = kept, None
            self._good_until = time.monotonic() + max(self._seconds, SHARE * took)
        making.set_result(kept[0])
