from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from real_prometheus import DEPLOY, Query, needs_prometheus, prometheus, use_here, wait_until
from report_stores import small_study, write, write_measurements

from sparsing.analysis.refitting.follow import FollowedStudy
from sparsing.analysis.service.app import application
from sparsing.analysis.service.targets import announced
from sparsing.analysis.service.web.server import Server
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.study_store import StudyStore

GRAFANA = DEPLOY / "grafana"
DASHBOARDS = ("operators", "researchers")
TOKEN = "0123456789abcdef"
STUDY = small_study().study_id
RUNS = plan_runs(small_study())


def test_the_dashboards_are_what_the_code_makes(tmp_path):
    command = [sys.executable, str(GRAFANA / "dashboards.py"), str(tmp_path)]
    subprocess.run(command, check=True, timeout=60)
    for name in DASHBOARDS:
        made, there = tmp_path / f"{name}.json", GRAFANA / f"{name}.json"
        assert made.read_text() == there.read_text(), (
            f"python deploy/grafana/dashboards.py ({name})"
        )


def queries(name: str) -> dict[str, str]:
    """PromQL of each panel's queries, for all runs of the test's study."""
    board: dict[str, Any] = json.loads((GRAFANA / f"{name}.json").read_text())
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        .replace("$study", STUDY)
        .replace("$run", ".*")
        for panel in board["panels"]
        for target in panel["targets"]
    }


def write_run(store: StudyStore, index: int) -> None:
    """A run that got its place and trains on GPUs, with nine checkpoints measured."""
    run = RUNS[index]
    write(store, "runs", run, [{"step": 0, "state": "waiting"}], stream="controller")
    device = "NVIDIA A800-SXM4-80GB, bfloat16, ZeRO 1"
    training = {"step": 0, "state": "training", "device": device, "world_size": 8}
    write(store, "runs", run, [training], stream="shard")
    write_steps(store, index, 1, 900)
    paths = [f"checkpoints/{run.id}/{step}" for step in run.checkpoint_steps[:9]]
    rows = [
        {"step": step, "tokens": step * run.batch_tokens, "path": path}
        for step, path in zip(run.checkpoint_steps, paths, strict=False)
    ]
    write(store, "checkpoints", run, rows)
    write_measurements(store, run, count=9)


def write_steps(store: StudyStore, index: int, first: int, last: int) -> None:
    run = RUNS[index]
    rows = [
        {
            "step": step,
            "tokens": step * run.batch_tokens,
            "loss": 2.0 + 3.0 / step,
            "learning_rate": 0.01,
            "tokens_per_second": 1e5,
            "step_seconds": 0.01,
            "memory_bytes": 7 * 2**30,
        }
        for step in range(first, last + 1, 50)
    ]
    with store.writer("steps", run=run.id, attempt=1) as writer:
        writer.append(writer.next_seq, rows)


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    made = StudyStore.create(tmp_path / "store", small_study())
    (tmp_path / "store" / ".targets").mkdir()
    for index in (0, 2):
        write_run(made, index)
    return made


@pytest.fixture
def query(store: StudyStore, tmp_path: Path) -> Iterator[Query]:
    (tmp_path / "server").mkdir()
    config = use_here(tmp_path / "server", store.path.parent, TOKEN, every="250ms")
    with prometheus(config) as asking:
        yield asking


class Service:
    """A law service that is announced in the store, until it is closed."""

    def __init__(self, store: StudyStore) -> None:
        self.running = ExitStack()
        followed = FollowedStudy(store)
        app = application([followed], TOKEN)
        self.server = self.running.enter_context(Server(app, "127.0.0.1", 0))
        self.running.enter_context(announced([store], "127.0.0.1", self.server.port))
        self.running.enter_context(followed)


@needs_prometheus
def test_every_panel_has_data_and_a_service_that_moves_is_found(store, query):
    first = Service(store)
    with first.running:
        wait_until(lambda: len(query("sparsing_law_residual")) == 2)
        for index in (0, 2):
            write_steps(store, index, 901, 1000)
            write_measurements(store, RUNS[index])  # with the tenth checkpoint
        asked = {title: text for name in DASHBOARDS for title, text in queries(name).items()}
        empty: dict[str, str] = dict(asked)
        deadline = time.monotonic() + 60
        while empty and time.monotonic() < deadline:
            empty = {title: text for title, text in empty.items() if not has_value(query(text))}
        assert not empty
        tokens = query(f'sparsing_run_tokens_total{{run="{RUNS[0].id}"}}')
        assert tokens[0]["metric"]["instance"] == first.server.url.removeprefix("http://")
        assert not query("increase(scrape_samples_scraped[1m]) < 0")
    wait_until(lambda: not query("sparsing_runs"))
    second = Service(store)
    with second.running:
        assert second.server.port != first.server.port
        after = wait_until(lambda: query(f'sparsing_run_tokens_total{{run="{RUNS[0].id}"}}'))
    assert len(after) == 1
    assert after[0]["metric"]["instance"] == second.server.url.removeprefix("http://")
    assert float(after[0]["value"][1]) >= float(tokens[0]["value"][1])


def has_value(found: list[Any]) -> bool:
    """Whether any series has a number."""
    return any(sample["value"][1] != "NaN" for sample in found)
