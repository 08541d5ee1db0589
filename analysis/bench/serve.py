"""`sparsing bench serve`: the law service against reading the tables anew for each request.

A `sparsing serve` in a process of its own holds a made-up study of 1,000 runs and 100,000
measured points; 20 clients ask it at once, while rows are added. Values are 95th percentiles of
the latency. The baseline does the reading of one such request with polars, for one client and
without HTTP. Tables of 5 million rows come as Arrow over HTTP, against polars reading the same
files here.
"""

from __future__ import annotations

import gzip
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from sparsing.analysis.refitting.fit_rows import Job, fit_row
from sparsing.analysis.refitting.newest import METRIC, newest_fits, read_curves
from sparsing.study.bench.bench import Case, compare
from sparsing.study.definition.model import Study
from sparsing.study.errors import SparsingError
from sparsing.study.plan.runs import Run, plan_runs
from sparsing.study.status.study_status import StudyStatus
from sparsing.study.store.study_store import StudyStore

RUNS, POINTS, STEPS = 1000, 100, 20
CLIENTS, ASKED = 20, 10
"""Clients at once, and how often each asks in one repeat."""
ROWS, ROWS_OF_RUN, CHUNK = 5_000_000, 250_000, 50_000
GROWTH_SECONDS = 1.0
"""Seconds between the measurements that are added while clients ask."""


def cases(repeats: int) -> list[Case]:
    """All cases of this benchmark; takes minutes, most of them to make the stores."""
    with tempfile.TemporaryDirectory() as folder:
        wide = _many_runs(Path(folder))
        long = _many_rows(Path(folder))
        with _serving(Path(folder), wide, long) as port:
            return [*_documents(port, wide, repeats), *_tables(port, long, repeats)]


def _documents(port: int, store: StudyStore, repeats: int) -> list[Case]:
    path = f"/api/studies/{store.study_id}"
    first = plan_runs(store.study)[0].id

    def status() -> object:
        return json.dumps(StudyStatus.read(store).as_json())

    def live() -> object:
        curves, fits = read_curves(store), newest_fits(store)
        return status(), len(curves), fits.height

    def run() -> object:
        return read_curves(store, [first]), newest_fits(store, first).to_dicts()

    asked: tuple[tuple[str, str, Callable[[], object]], ...] = (
        ("page", f"/studies/{store.study_id}", live),
        ("live JSON", f"{path}/live", live),
        ("status JSON", path, status),
        ("JSON of a run", f"{path}/runs/{first}", run),
    )
    found = []
    with _growing(store):
        for name, address, read in asked:
            _get(port, address)
            found.append(
                compare(
                    f"{name}, p95 of {CLIENTS} clients, {RUNS} runs, {RUNS * POINTS} points",
                    lambda address=address: _percentile(port, address),  # type: ignore[misc]
                    lambda read=read: _milliseconds(read),  # type: ignore[misc]
                    baseline_name="the tables read by polars, one client",
                    unit="ms",
                    better="lower",
                    repeats=repeats,
                )
            )
        found.append(
            compare(
                f"/metrics of {RUNS} runs",
                lambda: _milliseconds(lambda: _get(port, "/metrics")),
                lambda: _milliseconds(status),
                baseline_name="the status read by polars",
                unit="ms",
                better="lower",
                repeats=repeats,
            )
        )
    return found


def _tables(port: int, store: StudyStore, repeats: int) -> list[Case]:
    path = f"/api/studies/{store.study_id}/tables/steps"

    def rows(address: str) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{address}", timeout=300) as answer:
            return pa.ipc.open_stream(answer).read_all().num_rows

    if rows(path) != ROWS:
        raise SparsingError(f"{path} gave other than {ROWS} rows")
    asked: tuple[tuple[str, str, Callable[[], object]], ...] = (
        (f"Arrow over HTTP, {ROWS} rows", path, lambda: store.scan("steps").collect().to_arrow()),
        (
            "Arrow over HTTP, one row",
            f"{path}?limit=1",
            lambda: store.scan("steps").head(1).collect().to_arrow(),
        ),
    )
    return [
        compare(
            name,
            lambda address=address: _milliseconds(lambda: rows(address)),  # type: ignore[misc]
            lambda read=read: _milliseconds(read),  # type: ignore[misc]
            baseline_name="polars reads the files here",
            unit="ms",
            better="lower",
            repeats=repeats,
        )
        for name, address, read in asked
    ]


def _milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def _get(port: int, path: str, connection: http.client.HTTPConnection | None = None) -> bytes:
    """The body of an answer that came compressed where the service thinks it worth while."""
    connection = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("GET", path, headers={"accept-encoding": "gzip"})
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise SparsingError(f"{path} was answered with {answer.status}: {body[:200]!r}")
    return gzip.decompress(body) if answer.headers["content-encoding"] == "gzip" else body


def _percentile(port: int, path: str) -> float:
    """95th percentile of the latency, in ms, of CLIENTS that ask at once, ASKED times each."""

    def client(_: int) -> list[float]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        return [_latency(connection, path) for _ in range(ASKED)]

    with ThreadPoolExecutor(CLIENTS) as clients:
        took = [each for some in clients.map(client, range(CLIENTS)) for each in some]
    return float(np.percentile(took, 95))


def _latency(connection: http.client.HTTPConnection, path: str) -> float:
    """Until the last byte; to unpack it is the client's work."""

    def ask() -> None:
        connection.request("GET", path, headers={"accept-encoding": "gzip"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SparsingError(f"{path} was answered with {answer.status}")

    return _milliseconds(ask)


@contextmanager
def _serving(root: Path, *stores: StudyStore) -> Iterator[int]:
    """The port of a service of the stores."""
    command = [sys.executable, "-m", "sparsing", "serve", "--no-refit", "--port", "0", "--json"]
    process = subprocess.Popen(
        [*command, *(store.study_id for store in stores), "--store", str(root)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        said = process.stdout.readline()
        if not said:
            raise SparsingError("`sparsing serve` did not start")
        port = urlsplit(json.loads(said)["url"]).port
        assert port
        yield port
    finally:
        process.terminate()
        process.wait(timeout=60)


@contextmanager
def _growing(store: StudyStore) -> Iterator[None]:
    """Adds a measurement to one run after another, as a study in training does."""
    ended = threading.Event()

    def grow() -> None:
        for count, run in enumerate(plan_runs(store.study) * 10):
            if ended.wait(GROWTH_SECONDS):
                return
            point = POINTS + 1 + count // RUNS
            _write(store, "sparsity", run, [_measurement(run, point)])

    thread = threading.Thread(target=grow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _study(name: str, runs: int) -> Study:
    content = {
        "name": name,
        "axes": {
            "activation": ["relu", "silu"],
            "scale": [{"d_h": 32, "layers": 4, "d_f": 80, "heads": 2}],
            "seed": list(range(runs // 2)),
        },
        "tokens": 2_048_000,
        "data": {"domains": {"code": {"kind": "python-stdlib"}}, "sequence_tokens": 128},
        "optimization": {"batch_tokens": 1024, "warmup_tokens": 10_240},
        "checkpoints": {"count": POINTS},
    }
    return Study.model_validate(content)


def _many_runs(root: Path) -> StudyStore:
    """Every run in training, measured at POINTS checkpoints and fitted."""
    store = StudyStore.create(root, _study("wide", RUNS))
    fits: dict[str, dict[str, Any]] = {}
    for run in plan_runs(store.study):
        _write(store, "runs", run, [{"step": 0, "state": "training", "device": "none"}])
        _write(store, "steps", run, [_step(step) for step in range(1, STEPS + 1)])
        _write(store, "sparsity", run, [_measurement(run, i + 1) for i in range(POINTS)])
        if run.activation not in fits:  # one fit of each activation stands for all
            job = Job(
                curve=read_curves(store, [run.id])[run.id],
                law=run.activation,
                dropped=0,
                code_version="bench",
            )
            fits[run.activation] = fit_row(job)
        _write(store, "fits", run, [fits[run.activation]])
    return store


def _many_rows(root: Path) -> StudyStore:
    """ROWS rows of `steps`, sealed."""
    store = StudyStore.create(root, _study("long", ROWS // ROWS_OF_RUN))
    chunks = [
        [_step(first + step) for step in range(CHUNK)] for first in range(0, ROWS_OF_RUN, CHUNK)
    ]
    for run in plan_runs(store.study):
        with store.writer("steps", run=run.id, attempt=1) as writer:
            for rows in chunks:
                writer.append(writer.next_seq, rows)
                writer.flush()
        store.seal(run.id)
    return store


def _write(store: StudyStore, table: str, run: Run, rows: list[dict[str, Any]]) -> None:
    with store.writer(table, run=run.id, attempt=1) as writer:
        writer.append(writer.next_seq, rows)


def _step(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "tokens": step * 1024,
        "loss": 1.8 + 4 * (step + 1) ** -0.5,
        "learning_rate": 0.01,
        "tokens_per_second": 1e4,
        "step_seconds": 0.1,
    }


def _measurement(run: Run, point: int) -> dict[str, Any]:
    """Falling for ReLU, rising for SiLU, with a little noise."""
    tokens = point * run.tokens // POINTS
    noise = 1e-3 * float(np.random.default_rng([run.seed, point]).standard_normal())
    share = (tokens / run.tokens) ** -0.5
    ratio = 0.06 + 0.02 * share if run.activation == "relu" else 0.4 - 0.02 * share
    return {
        "step": tokens // run.batch_tokens,
        "tokens": tokens,
        "stage": "live",
        "metric": METRIC,
        "p_percent": 1.0,
        "cett": 0.13,
        "activation_ratio": ratio + noise,
        "measured_tokens": 8192,
        "measure_seconds": 0.5,
    }
