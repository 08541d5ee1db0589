"""`sparsing bench store`: small durable appends against MLflow and TensorBoard, and queries.

Ours are `TableWriter.append` and `flush` of 100 rows: fsynced when acknowledged. MLflow (a sqlite
store) and TensorBoard take rows one by one, as a training loop hands them over. None of these is
installed with this package: `pip install -r requirements-test.txt` (mlflow-skinny, which is MLflow
without its server and models: all of MLflow asks for an older pyarrow).
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from sparsing.study.bench.bench import Case, compare
from sparsing.study.bench.made_rows import ROWS, bench_study, step_rows
from sparsing.study.bench.queries import query_cases
from sparsing.study.errors import NotFoundError
from sparsing.study.store.study_store import StudyStore

PROCESSES = (1, 4)
APPENDS = {"ours": 500, "mlflow": 1, "mlflow_batch": 5, "tensorboard": 20}
"""Appends of each process, a repeat."""
COLUMNS = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "step_seconds", "tokens")
NEEDED = ("mlflow", "sqlalchemy", "alembic", "tensorboard", "duckdb")
Append = Callable[[int], None]


def cases(repeats: int) -> list[Case]:
    """All cases of this benchmark; in a temporary folder, so TMPDIR says on which disk."""
    _need_baselines()
    with tempfile.TemporaryDirectory(prefix="sparsing-bench-") as folder:
        root = Path(folder)
        _create_mlflow(root)
        found = [
            *(
                _rows_case(root, n, name, told, repeats)
                for n in PROCESSES
                for name, told in (
                    ("mlflow", "MLflow (sqlite), row by row"),
                    ("tensorboard", "TensorBoard, row by row, no fsync"),
                )
            ),
            *(_latency_case(root, n, share, repeats) for n in PROCESSES for share in (0.5, 0.99)),
        ]
        return found + query_cases(root, repeats)


def _need_baselines() -> None:
    for module in NEEDED:
        if importlib.util.find_spec(module) is None:
            raise NotFoundError(
                f"{module}, a baseline, is not installed: `pip install mlflow-skinny sqlalchemy "
                "alembic tensorboard duckdb`, or `pip install -r requirements-test.txt`"
            )


def _rows_case(root: Path, processes: int, name: str, told: str, repeats: int) -> Case:
    return compare(
        f"durable rows per second, {processes} processes",
        lambda: rows_per_second(root, "ours", processes),
        lambda: rows_per_second(root, name, processes),
        baseline_name=told,
        unit="rows/s",
        better="higher",
        repeats=repeats,
    )


def _latency_case(root: Path, processes: int, share: float, repeats: int) -> Case:
    return compare(
        f"append of {ROWS} rows, p{share * 100:.0f}, {processes} processes",
        lambda: latency_ms(root, "ours", processes, share),
        lambda: latency_ms(root, "mlflow_batch", processes, share),
        baseline_name="MLflow (sqlite), log_batch of the same values",
        unit="ms",
        better="lower",
        repeats=repeats,
    )


def rows_per_second(root: Path, side: str, processes: int) -> float:
    """Rows of all processes, from the first one's start to the last one's end."""
    spans = _run(root, side, processes)
    start, end = min(span[0] for span in spans), max(span[-1] for span in spans)
    return processes * APPENDS[side] * ROWS / (end - start)


def latency_ms(root: Path, side: str, processes: int, share: float) -> float:
    """A quantile of how long an append takes, in milliseconds."""
    spans = _run(root, side, processes)
    taken = sorted(b - a for span in spans for a, b in itertools.pairwise(span))
    return 1000 * taken[min(int(share * len(taken)), len(taken) - 1)]


def _run(root: Path, side: str, processes: int) -> list[list[float]]:
    """Times (`time.monotonic`) of each process: its start, and the end of each of its appends."""
    context = multiprocessing.get_context("spawn")
    folder = Path(tempfile.mkdtemp(prefix=f"{side}-", dir=root))
    begin, working, readers = context.Barrier(processes), [], []
    for number in range(processes):
        ours, theirs = context.Pipe(duplex=False)
        arguments = side, folder, number, APPENDS[side], begin, theirs
        process = context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        theirs.close()
        working.append(process)
        readers.append(ours)
    try:
        return [reader.recv() for reader in readers]
    finally:
        for process in working:
            process.join()
        shutil.rmtree(folder)


def _work(
    side: str, folder: Path, number: int, appends: int, begin: Barrier, result: Connection
) -> None:
    with SIDES[side](folder, number) as append:
        begin.wait()
        times = [time.monotonic()]
        for at in range(appends):
            append(at)
            times.append(time.monotonic())
    result.send(times)


@contextmanager
def _ours(folder: Path, number: int) -> Iterator[Append]:
    batches = [step_rows(ROWS * at) for at in range(APPENDS["ours"])]
    store = StudyStore.create(folder, bench_study())
    with store.writer("steps", run=f"r{number}", attempt=1) as writer:

        def append(at: int) -> None:
            writer.append(at, batches[at])
            writer.flush()

        yield append


def _mlflow_uri(root: Path) -> str:
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    return f"sqlite:///{root / 'mlflow.db'}"


def _create_mlflow(root: Path) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(_mlflow_uri(root))
    client.create_experiment("bench", artifact_location=str(root / "artifacts"))


@contextmanager
def _mlflow(folder: Path, number: int, rows_at_once: int = 1) -> Iterator[Append]:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

    client = MlflowClient(_mlflow_uri(folder.parent))
    (experiment,) = client.search_experiments(filter_string="name = 'bench'")
    run = client.create_run(experiment.experiment_id).info.run_id

    def append(at: int) -> None:
        rows, now = step_rows(ROWS * at), int(time.time() * 1000)
        for first in range(0, ROWS, rows_at_once):
            metrics = [
                Metric(name, row[name], now, row["step"])
                for row in rows[first : first + rows_at_once]
                for name in COLUMNS
            ]
            client.log_batch(run, metrics=metrics)

    yield append


@contextmanager
def _mlflow_batch(folder: Path, number: int) -> Iterator[Append]:
    with _mlflow(folder, number, rows_at_once=ROWS) as append:
        yield append


@contextmanager
def _tensorboard(folder: Path, number: int) -> Iterator[Append]:
    from tensorboard.summary import Writer

    writer = Writer(str(folder / f"r{number}"))

    def append(at: int) -> None:
        for row in step_rows(ROWS * at):
            for name in COLUMNS:
                writer.add_scalar(name, row[name], row["step"])
        writer.flush()

    yield append
    writer.close()


SIDES: dict[str, Callable[[Path, int], Any]] = {
    "ours": _ours,
    "mlflow": _mlflow,
    "mlflow_batch": _mlflow_batch,
    "tensorboard": _tensorboard,
}
