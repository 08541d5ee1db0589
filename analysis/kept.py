"""A value that is dear to make, kept until it is old."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

SHARE = 4
"""Making it again takes at most about one part in so many, plus one, of the time."""

T = TypeVar("T")


class Kept(Generic[T]):
    """What `make` gives, at most `seconds` old, or as old as SHARE times what making it took.

    version: where given, an older value still counts while this says what it said before the
    making. For any number of threads: one makes, the others wait for it.
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
        self._good_until = 0.0

    def get(self) -> T:
        """The value; raises what `make` raises, and then keeps nothing."""
        with self._lock:
            if self._kept is not None and time.monotonic() < self._good_until:
                return self._kept[0]
            version = self._version() if self._version else None
            began = time.monotonic()
            if self._kept is None or self._version is None or version != self._kept[1]:
                self._kept = None
                self._kept = (self._make(), version)
            took = time.monotonic() - began
            self._good_until = time.monotonic() + max(self._seconds, SHARE * took)
            return self._kept[0]
