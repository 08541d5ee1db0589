"""Where parts are worked on: in this process, or by Ray tasks on CPUs of the cluster.

Plain tasks, not Ray Data: a part is a file range in and files out, so that nothing streams between
workers, and what is done is in the store, not in an object (docs/decisions.md has both measured).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

from sparsing.study.errors import SparsingError

AHEAD = 2
"""Tasks handed out for each CPU: one more waits, so that no worker does."""
RETRIES = 20
"""Of a task whose worker or node died."""
MEMORY_BYTES = 10**9
"""What a worker takes at most, which Ray counts with."""

Job = TypeVar("Job")
Result = TypeVar("Result")


class Executor(Protocol):
    """Runs a function over jobs."""

    @property
    def workers(self) -> int:
        """Jobs at a time."""

    def map(
        self, function: Callable[[Job], Result], jobs: Iterable[Job], *, ordered: bool = False
    ) -> Iterator[Result]:
        """The results as they come, or in the order of jobs; jobs are taken as they are needed."""


class Inline:
    """In this process, one after the other."""

    workers = 1

    def map(
        self, function: Callable[[Job], Result], jobs: Iterable[Job], *, ordered: bool = False
    ) -> Iterator[Result]:
        """The results, in order."""
        yield from map(function, jobs)


class RayTasks:
    """Tasks on the Ray cluster that this process is connected to, a CPU for each."""

    def __init__(self, workers: int | None = None) -> None:
        """At most this number of tasks at a time; None: as many as the cluster has CPUs."""
        self._asked = workers

    @property
    def workers(self) -> int:
        """Jobs at a time, now: a cluster may grow."""
        import ray

        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
        return min(self._asked, cpus) if self._asked else cpus

    def map(
        self, function: Callable[[Job], Result], jobs: Iterable[Job], *, ordered: bool = False
    ) -> Iterator[Result]:
        """The results as they come, or in the order of jobs; closing it cancels what is left."""
        import ray

        remote: Any = ray.remote(_alone).options(
            num_cpus=1, max_retries=RETRIES, memory=MEMORY_BYTES
        )
        waiting: deque[Any] = deque()
        coming = iter(jobs)
        try:
            while True:
                window = self._asked or AHEAD * self.workers
                while len(waiting) < window and (job := next(coming, _END)) is not _END:
                    waiting.append(remote.remote(function, job))
                if not waiting:
                    return
                if ordered:
                    ready = waiting.popleft()
                else:
                    [ready], rest = ray.wait(list(waiting), num_returns=1)
                    waiting = deque(rest)
                yield _result(ready)
        finally:
            for ref in waiting:
                ray.cancel(ref)


_END: Any = object()


def _alone(function: Callable[[Any], Any], job: Any) -> Any:
    """Call it in a worker, which has one CPU."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return function(job)


def _result(ref: Any) -> Any:
    """What a task returned; its error as it was raised."""
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, SparsingError | OSError):
            raise cause from None
        raise
    except ray.exceptions.RayError as error:
        first = str(error).strip().partition("\n")[0]
        raise SparsingError(
            f"a worker that prepares data failed: {first}; the same command again goes on"
        ) from error


def executor_for(size: int, workers: int | None = None) -> Executor:
    """Ray's tasks where Ray is running and the work is worth a worker's start, else inline."""
    import sys

    if size < INLINE_BYTES or "ray" not in sys.modules:
        return Inline()
    import ray

    return RayTasks(workers) if ray.is_initialized() else Inline()


INLINE_BYTES = 64 * 2**20
"""Less than that is read and tokenized before workers have started."""
