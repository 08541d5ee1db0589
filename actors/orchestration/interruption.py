"""A closed terminal and SIGTERM end a command as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it the signals raise KeyboardInterrupt; for the main thread, elsewhere nothing.

    Ray takes SIGTERM over when it is started; `take_signals` takes it back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    take_signals()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def take_signals() -> None:
    """From now on the signals raise KeyboardInterrupt; does nothing outside the main thread."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _interrupt)


@contextmanager
def hangup_blocked() -> Iterator[None]:
    """Processes that are started within it do not end when the terminal is closed.

    They end with this one, which has to end first what they do. A SIGHUP that comes meanwhile is
    delivered after it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
