from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain
from stores import (
    checkpoint_row,
    fit_row,
    sparsity_row,
    state_row,
    step_row,
    tiny_store,
    tiny_study,
    write_rows,
)

from study.errors import DefinitionError
from study.exporter import serve_metrics
from study.plan import plan_runs
from study.store import StudyStore

RELU, SILU = (run.id for run in plan_runs(tiny_study()))
STUDY = tiny_study().study_id
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    return tiny_store(tmp_path)


@contextmanager
def served(store: StudyStore) -> Iterator[int]:
    """The port on which the store's metrics are."""
    server = serve_metrics(store, 0)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def scrape(port: int) -> Samples:
    """All samples, by name and labels."""
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers=accept)
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        families = list(openmetrics(answer.read().decode()))
    samples = [sample for family in families for sample in family.samples]
    found = {(each.name, frozenset(each.labels.items())): each.value for each in samples}
    assert len(found) == len(samples)
    return found


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"sparsing_{name}", frozenset({"study": STUDY, **labels}.items())))


def fill(store: StudyStore) -> None:
    """One run in training, measured twice and fitted; the other planned."""
    write_rows(store, "runs", RELU, [state_row("training")])
    write_rows(store, "steps", RELU, [step_row(step) for step in range(1, 33)])
    write_rows(store, "checkpoints", RELU, [checkpoint_row(32)])
    for step, ratio in ((16, 0.5), (32, 0.4)):
        rows = [sparsity_row(step, ratio), sparsity_row(step, ratio, layer=0)]
        write_rows(store, "sparsity", RELU, rows, stream="live")
    write_rows(store, "fits", RELU, [fit_row(32, limit_activation_ratio=0.06, limit_high=0.07)])


def test_an_empty_store_has_states_and_no_values(store):
    with served(store) as port:
        samples = scrape(port)
    assert value(samples, "runs", state="planned") == 2
    assert value(samples, "runs", state="failed") == 0
    assert value(samples, "run_tokens_total", run=RELU) == 0
    assert value(samples, "store_rows_total", table="steps") == 0
    assert value(samples, "fit_lag_seconds") == 0
    assert value(samples, "run_loss", run=RELU) is None


def test_what_the_store_holds_is_exported(store):
    fill(store)
    with served(store) as port:
        samples = scrape(port)
    assert value(samples, "runs", state="training") == 1
    assert value(samples, "run_tokens_total", run=RELU) == 512
    assert value(samples, "run_restarts_total", run=RELU) == 0
    assert value(samples, "run_loss", run=RELU) == 5.0 / 33
    assert value(samples, "run_learning_rate", run=RELU) == 0.01
    assert value(samples, "run_tokens_per_second", run=RELU) == 100.0
    assert value(samples, "activation_ratio", run=RELU) == 0.4
    assert value(samples, "activation_ratio", run=SILU) is None
    assert value(samples, "law_residual", run=RELU) == pytest.approx(1e-3)
    bounds = {b: value(samples, "law_limit_activation_ratio", run=RELU, bound=b) for b in BOUNDS}
    assert bounds == {"estimate": 0.06, "low": None, "high": 0.07}
    assert value(samples, "store_rows_total", table="steps") == 32
    assert value(samples, "store_rows_total", table="sparsity") == 4
    assert value(samples, "fit_seconds_count") == 1
    assert value(samples, "fit_seconds_sum") == pytest.approx(0.02)
    assert value(samples, "fit_seconds_bucket", le="0.005") == 0
    assert value(samples, "fit_seconds_bucket", le="0.1") == 1
    assert value(samples, "measure_seconds_count") == 2
    assert value(samples, "measure_seconds_bucket", le="+Inf") == 2


BOUNDS = ("estimate", "low", "high")


def test_counters_go_on_and_no_series_outlives_its_truth(store):
    fill(store)
    with served(store) as port:
        before = scrape(port)
    write_rows(store, "runs", RELU, [state_row("training")], attempt=2)
    write_rows(store, "steps", RELU, [step_row(33)], attempt=2)
    with served(store) as port:  # a new exporter
        after = scrape(port)
        counters = [key for key in before if key[0].endswith("_total")]
        assert all(after[key] >= before[key] for key in counters)
        assert value(after, "run_restarts_total", run=RELU) == 1
        assert value(after, "run_tokens_total", run=RELU) == 528
        write_rows(store, "runs", RELU, [state_row("done", 64)], attempt=2, stream="controller")
        ended = scrape(port)
    assert value(ended, "run_tokens_per_second", run=RELU) is None
    assert value(ended, "run_learning_rate", run=RELU) is None
    assert value(ended, "runs", state="training") == 0
    assert value(ended, "run_tokens_total", run=RELU) == 528


def test_fit_lag_is_the_age_of_what_no_fit_has_seen(store):
    fill(store)
    with served(store) as port:
        assert value(scrape(port), "fit_lag_seconds") == 0
        write_rows(store, "sparsity", RELU, [sparsity_row(48, 0.3)], stream="live")
        time.sleep(0.1)
        lag = value(scrape(port), "fit_lag_seconds")
        assert lag is not None
        assert 0.1 <= lag < 30
        write_rows(store, "fits", RELU, [fit_row(48)])
        assert value(scrape(port), "fit_lag_seconds") == 0


def test_measurements_that_no_fit_would_use_are_no_lag(store):
    write_rows(store, "sparsity", RELU, [sparsity_row(16, 0.5)], stream="live")
    write_rows(store, "sparsity", SILU, [sparsity_row(0, 0.5)], stream="live")
    write_rows(store, "sparsity", SILU, [sparsity_row(16, 0.5)], stream="live")
    with served(store) as port:
        assert value(scrape(port), "fit_lag_seconds") == 0


def test_old_scrapers_get_the_plain_format(store):
    with served(store) as port:
        address = f"http://127.0.0.1:{port}/metrics"
        with urllib.request.urlopen(address, timeout=20) as answer:
            families = {family.name for family in plain(answer.read().decode())}
    assert {"sparsing_runs", "sparsing_run_tokens", "sparsing_fit_seconds"} <= families


def test_a_taken_port_is_named(store):
    with served(store) as port, pytest.raises(DefinitionError, match=f"127.0.0.1:{port}"):
        serve_metrics(store, port)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def _prometheus(folder: Path, target: int) -> Iterator[Callable[[str], list[Any]]]:
    """A real server that scrapes the target each 200 ms; gives its query function."""
    config = {
        "global": {"scrape_interval": "200ms"},
        "scrape_configs": [
            {"job_name": "sparsing", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    port = _free_port()
    options = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder / "data",
        "web.listen-address": f"127.0.0.1:{port}",
    }
    command = ["prometheus", *(f"--{name}={option}" for name, option in options.items())]
    log = (folder / "prometheus.log").open("w")
    process = subprocess.Popen(command, stderr=log, stdout=log, cwd=folder)

    def ask(query: str) -> list[Any]:
        encoded = urllib.parse.urlencode({"query": query})
        try:
            address = f"http://127.0.0.1:{port}/api/v1/query?{encoded}"
            with urllib.request.urlopen(address, timeout=10) as answer:
                return json.load(answer)["data"]["result"]
        except OSError:
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            return []

    try:
        yield ask
    finally:
        process.terminate()
        process.wait(timeout=20)
        log.close()


@pytest.mark.slow
def test_a_real_prometheus_server_scrapes_it(store, tmp_path_factory):
    if not shutil.which("prometheus"):
        pytest.skip("needs the prometheus binary: `apt-get install prometheus`")
    fill(store)
    with served(store) as port, _prometheus(tmp_path_factory.mktemp("server"), port) as ask:
        deadline = time.monotonic() + 60
        while not (found := ask("sparsing_run_tokens_total > 0")):
            assert time.monotonic() < deadline, "nothing was scraped within a minute"
            time.sleep(0.2)
        assert found[0]["metric"]["run"] == RELU
        assert float(found[0]["value"][1]) == 512
        (median,) = ask("histogram_quantile(0.5, sparsing_measure_seconds_bucket)")
        assert 0 < float(median["value"][1]) <= 0.5
        assert ask("up == 1")
        assert not ask("scrape_samples_scraped - scrape_samples_post_metric_relabeling > 0")
        write_rows(store, "runs", RELU, [state_row("done", 64)], stream="controller")
        while ask(f'sparsing_run_tokens_per_second{{run="{RELU}"}}'):
            assert time.monotonic() < deadline, "the series is stale and still there"
            time.sleep(0.2)
