"""The fence of an attempt: shards of an earlier attempt of a run must write nothing more.

A gang may outlive its controller, or be cut off from it, and go on; meanwhile another attempt is
started elsewhere. The controller records an attempt in `runs` before its gang exists; so a shard
that looks there finds out. Nothing rests on the moment between looking and writing: a row that is
there is not written again, and a checkpoint's marker appears once (`training.checkpoint_write`).
The fence ends the orphan, which would otherwise train to the end for nothing.
"""

from __future__ import annotations

import time

import polars as pl

from sparsing.study.errors import FencedError
from sparsing.study.store.control.lease import check_token
from sparsing.study.store.study_store import StudyStore

LOOK_SECONDS = 1.0
"""Rows are committed about once a second: looking more often would find out nothing sooner."""


class Fence:
    """Looks whether an attempt of a run is still the newest, of the newest controller."""

    def __init__(self, store: StudyStore, run: str, attempt: int, token: int) -> None:
        self._store, self._run, self._attempt = store, run, attempt
        self._token = token
        self._state: object = None
        self._looked = float("-inf")

    def check(self) -> None:
        """Return if no newer attempt is recorded, and no newer controller at work.

        Raises:
            FencedError: there is one.
        """
        self._looked = time.monotonic()
        check_token(self._store.path, self._token)
        state = self._store.state("runs", self._run)
        if state == self._state:
            return
        attempts = self._store.scan("runs", self._run).select(pl.col("attempt").max()).collect()
        newest = attempts.item() or 0
        if newest > self._attempt:
            raise FencedError(
                f"{self._run}: attempt {newest} has been started; attempt {self._attempt} "
                "stops, and writes nothing more"
            )
        self._state = state

    def check_at_times(self) -> None:
        """The same at most once in LOOK_SECONDS, for what is done at every step."""
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self.check()
