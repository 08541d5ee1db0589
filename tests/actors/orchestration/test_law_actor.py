"""The law service beside a study's runs, as a real actor."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from stores import sparsity_row, tiny_store

from sparsing.actors.orchestration.embedded import embedded_ray, private_folder
from sparsing.actors.orchestration.study_actor import start_law_service
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.study_store import StudyStore


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with private_folder() as folder, embedded_ray(folder):
        yield


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    return tiny_store(tmp_path, axes={"activation": ["relu"], "scale": [{"d_h": 8, "layers": 2}]})


def measure(store: StudyStore, steps: range) -> None:
    (run,) = plan_runs(store.study)
    with store.writer("sparsity", run=run.id, attempt=1) as writer:
        for step in steps:
            writer.append(writer.next_seq, [sparsity_row(step, 0.1 + 0.2 / step)])


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read()


def wait_for_fit(path: str, points: int) -> dict[str, Any]:
    """The one newest fit, once it rests on so many points."""
    deadline = time.monotonic() + 60
    while True:
        fits = json.loads(get(path))["fits"]
        if fits and fits[0]["points"] == points:
            return fits[0]
        assert time.monotonic() < deadline, fits
        time.sleep(0.1)


def test_the_actor_refits_by_itself_and_serves_what_it_fitted(cluster, store) -> None:
    laws = start_law_service(store, 0)
    url = ray.get(laws.url.remote(), timeout=90)
    assert url.startswith("http://127.0.0.1:")
    measure(store, range(8, 40, 4))
    path = f"{url}/api/studies/{store.study_id}/laws"
    fit = wait_for_fit(path, points=8)
    assert fit["law"] == "relu"
    measure(store, range(40, 60, 4))
    ray.get(laws.refit.remote(), timeout=60)
    assert store.count_rows("fits") == 2
    wait_for_fit(path, points=13)
    assert b"sparsing_fit_seconds_count" in get(f"{url}/metrics")
    ray.kill(laws)


def test_a_taken_port_is_an_error_of_ours(cluster, store) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        laws = start_law_service(store, taken.getsockname()[1])
        with pytest.raises(ray.exceptions.RayError) as caught:
            ray.get(laws.url.remote(), timeout=90)
    assert "nothing can be served" in str(caught.value)
