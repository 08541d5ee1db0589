"""A cache of one value with a time to live, for values that are expensive to make."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

SHARE = 4
"""A value lives at least this many times the time that it took to make."""
PATIENCE_SECONDS = 0.1
"""A reader waits this long for a new value where there is an expired one."""
OLDEST_SECONDS = 30.0
"""An expired value older than this is never returned."""

T = TypeVar("T")


class TimedCache(Generic[T]):
    """The value of `make`, with a time to live of `seconds`, or SHARE times what making it took.

    version: where given, an expired value lives on while this equals what it was before the value
    was made. For any number of threads: one makes the value, the others wait for it, or take the
    expired one where making takes longer than PATIENCE_SECONDS.
    """

    def __init__(
        self,
        make: Callable[[], T],
        seconds: float,
        version: Callable[[], object] | None = None,
    ) -> None:
        self._make, self._seconds, self._version = make, seconds, version
        self._lock = threading.Lock()
        self._cached: tuple[T, object] | None = None
        self._making: Future[T] | None = None
        self._expires_at = 0.0

    def get(self) -> T:
        """The value; raises what `make` raises, and then caches nothing."""
        with self._lock:
            cached, expired_seconds = self._cached, time.monotonic() - self._expires_at
            if cached is not None and expired_seconds < 0:
                return cached[0]
            if self._making is None:
                self._making = Future()
                threading.Thread(target=self._renew, args=(self._making,), daemon=True).start()
            making = self._making
        if cached is None or expired_seconds > OLDEST_SECONDS:
            return making.result()
        try:
            return making.result(PATIENCE_SECONDS)
        except TimeoutError:
            if making.done():  # then it is the error of the making itself
                raise
            return cached[0]

    def _renew(self, making: Future[T]) -> None:
        began = time.monotonic()
        try:
            version = self._version() if self._version else None
            cached = self._cached
            if cached is None or self._version is None or version != cached[1]:
                cached = (self._make(), version)
        except BaseException as error:
            with self._lock:
                self._cached, self._making = None, None
            making.set_exception(error)
            return
        took = time.monotonic() - began
        with self._lock:
            self._cached, self._making = cached, None
            self._expires_at = time.monotonic() + max(self._seconds, SHARE * took)
        making.set_result(cached[0])
