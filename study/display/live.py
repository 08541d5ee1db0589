"""A study shown while it changes: a table on a terminal, one line for each event elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

from sparsing.study.display.status import events, status_table
from sparsing.study.status.study_status import StatusReader, StudyStatus
from sparsing.study.store.study_store import StudyStore

POLL_SECONDS = 0.05
LINES_AROUND = 6
"""Lines of the terminal that are not rows of the table."""


def live_view(
    store: StudyStore,
    until: Callable[[], bool],
    *,
    file: TextIO | None = None,
    interval_seconds: float = 1.0,
) -> None:
    """Show a study until `until()` is true, then once more, and return; on stderr by default."""
    show_looks(_until(store, until, interval_seconds), file or sys.stderr)


def watch_until_ended(store: StudyStore, interval_seconds: float, file: TextIO) -> StudyStatus:
    """Show a study until all its runs have ended; returns how it then stands."""
    return show_looks(_until_ended(store, interval_seconds), file)


def show_looks(looks: Iterable[StudyStatus], file: TextIO) -> StudyStatus:
    """Show each look at a study; returns the last one."""
    return _show_table(looks, file) if file.isatty() else _show_lines(looks, file)


def _show_table(looks: Iterable[StudyStatus], file: TextIO) -> StudyStatus:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    now: StudyStatus | None = None
    console = Console(file=file)
    with Live(console=console, auto_refresh=False) as live:
        for now in looks:
            table = status_table(now, max_rows=console.height - LINES_AROUND)
            text = Text.from_ansi(table.text(console.width, colour=not console.no_color))
            live.update(text, refresh=True)
    assert now is not None
    return now


def _show_lines(looks: Iterable[StudyStatus], file: TextIO) -> StudyStatus:
    now = before = None
    for now in looks:
        for line in events(before, now):
            print(line, file=file, flush=True)
        before = now
    assert now is not None
    return now


def _until_ended(store: StudyStore, interval_seconds: float) -> Iterator[StudyStatus]:
    reader = StatusReader(store)
    while not (now := reader.read()).ended:
        yield now
        time.sleep(interval_seconds)
    yield now


def _until(
    store: StudyStore, until: Callable[[], bool], interval_seconds: float
) -> Iterator[StudyStatus]:
    reader = StatusReader(store)
    while not until():
        yield reader.read()
        due = time.monotonic() + interval_seconds
        while time.monotonic() < due and not until():
            time.sleep(POLL_SECONDS)
    yield reader.read()
