"""A study as a Ray job: handed over, attached to, stopped, resumed; its driver and actor killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sparsing.study.status.study_status import StudyStatus
from sparsing.study.store.control.lease import holder_of
from sparsing.study.store.study_store import StudyStore

DEFINITION = """
name: handed
axes:
  activation: [relu]
  scale: [{d_h: 16, layers: 2, d_f: 40, heads: 2}]
tokens: 4.5M
data:
  domains: {code: {kind: python-stdlib}}
  tokenizer: {kind: bytes}
  sequence_tokens: 64
  max_bytes: 400K
  validation: {tokens: 4096}
optimization: {batch_tokens: 512, warmup_tokens: 2048}
mup: {dim_model_base: 16}
checkpoints: {count: 8}
measurement: {pareto: false}
"""
PATIENCE_SECONDS = 240.0
"""On a busy machine."""


class RayHead:
    """A cluster of one node with a dashboard, and a token of its own."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ray-"))
        token = self.folder / "token"
        token.touch(0o600)
        token.write_text(uuid.uuid4().hex)
        self.environment = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_worker_niceness": "0",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        ports = [_free_port() for _ in range(3)]
        self.address = f"http://127.0.0.1:{ports[1]}"
        self.gcs = f"127.0.0.1:{ports[0]}"
        options = ["--num-cpus=2", "--object-store-memory=134217728", "--disable-usage-stats"]
        options += [f"--port={ports[0]}", f"--dashboard-port={ports[1]}", "--block"]
        options += [f"--dashboard-agent-listen-port={ports[2]}", f"--temp-dir={self.folder}/ray"]
        environment = {k: v for k, v in self.environment.items() if k != "PYTHONPATH"}
        self.process = subprocess.Popen(
            ["ray", "start", "--head", *options],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def sparsing(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sparsing", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )

    def job(self, job_id: str) -> dict[str, Any]:
        """What Ray's Jobs API says of a job."""
        headers = {"Authorization": f"Bearer {(self.folder / 'token').read_text()}"}
        asked = urllib.request.Request(f"{self.address}/api/jobs/{job_id}", headers=headers)
        with urllib.request.urlopen(asked, timeout=PATIENCE_SECONDS) as answer:
            return json.load(answer)

    def processes(self, title: str) -> list[psutil.Process]:
        """Of this cluster alone, those whose command line has the title."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if title in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def lose_a_node(self) -> None:
        """A second node joins, and dies."""
        command = ["ray", "start", f"--address={self.gcs}", "--num-cpus=0", "--block"]
        node = subprocess.Popen(
            command,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            until(lambda: self.node_states() == ["ALIVE", "ALIVE"], "the node has joined")
        finally:
            os.killpg(node.pid, signal.SIGKILL)
            node.wait()
        until(lambda: self.node_states() == ["ALIVE", "DEAD"], "the node is seen to be dead")

    def node_states(self) -> list[str]:
        """What Ray's dashboard says of the nodes that there ever were."""
        headers = {"Authorization": f"Bearer {(self.folder / 'token').read_text()}"}
        asked = urllib.request.Request(f"{self.address}/api/v0/nodes", headers=headers)
        with urllib.request.urlopen(asked, timeout=PATIENCE_SECONDS) as answer:
            found = json.load(answer)["data"]["result"]["result"]
        return sorted(node["state"] for node in found)

    def stop(self) -> None:
        processes = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        psutil.wait_procs(processes, timeout=20)
        for process in processes:
            if process.is_running():
                process.kill()
        self.process.wait(20)
        shutil.rmtree(self.folder, ignore_errors=True)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    started = RayHead()
    yield started
    started.stop()


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS:g} s: {what}"
        time.sleep(0.3)


@pytest.mark.timeout(1200)
def test_a_submitted_study_outlives_driver_and_controller(head: RayHead, tmp_path: Path) -> None:
    file, root = tmp_path / "handed.yaml", str(tmp_path / "store")
    file.write_text(DEFINITION)
    submit = ["submit", str(file), "--address", head.address, "--store", root]
    until(lambda: head.sparsing(*submit).returncode == 0, "submitted, once the cluster is there")
    head.lose_a_node()
    until(lambda: list(Path(root).glob("*/study.yaml")), "the job has made the store")
    store = StudyStore.open(root, "handed")
    until(lambda: store.scan("steps").collect().height > 50, "steps")

    again = head.sparsing(*submit)
    assert again.returncode == 0, again.stderr
    assert again.stdout == f"{store.study_id}\n"
    assert "at work there already" in again.stderr

    elsewhere = head.sparsing(*submit[:-1], str(tmp_path / "second"))
    assert elsewhere.returncode == 2
    assert f"is at work on this cluster in the store {root}" in elsewhere.stderr

    greedy = tmp_path / "greedy.yaml"
    greedy.write_text(DEFINITION + "resources: {shards: 8}\n")
    refused = head.sparsing("submit", str(greedy), *submit[2:])
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "resources.shards = 8: one run needs 8 CPUs (there are 2)" in refused.stderr

    for driver in head.processes("sparsing.actors.orchestration.job_entry"):
        driver.kill()
    for controller in head.processes("ray::StudyActor"):
        controller.kill()
    until(lambda: newest_token(store) == 2, "Ray starts the controller again")
    until(lambda: attempts(store) == 2, "it starts the run again")

    assert head.sparsing("stop", "handed", "--store", root).returncode == 0
    until(lambda: StudyStatus.read(store).states["stopped"] == 1, "stopped")
    until(lambda: not head.processes("ray::TrainingShard"), "its shards are gone")
    told = head.sparsing("logs", "handed", "--store", root, "--address", head.address)
    assert told.stdout.startswith("20"), told.stdout  # a time: Ray's own words are left out
    newest = attempts(store)
    assert newest >= 2
    assert f"stopped, attempt {newest}: sparsing resume goes on" in told.stdout

    resume = ["resume", "handed", "--address", head.address, "--store", root]
    told = head.sparsing(*resume)
    assert told.returncode == 0, told.stderr
    assert newest_token(store) == 3
    assert f"{store.study_id} is at work" in told.stderr
    until(lambda: StudyStatus.read(store).states["done"] == 1, "done")
    steps = store.scan("steps").sort("step").collect()["step"].to_list()
    assert steps == list(range(1, steps[-1] + 1))
    until(lambda: (store.path / "report.html").exists(), "the report is written")

    before = attempts(store)
    until(lambda: "\nsubmitted;" in "\n" + head.sparsing(*submit).stderr, "a finished one again")
    until(lambda: head.job(store.study_id)["end_time"], "its job has ended")
    job = head.job(store.study_id)
    told = head.sparsing("logs", "handed", "--store", root, "--address", head.address)
    assert job["status"] == "SUCCEEDED", f"{job['message']}\n{told.stdout}"
    assert attempts(store) == before


def newest_token(store: StudyStore) -> int:
    holder = holder_of(store.path)
    return holder.token if holder else 0


def attempts(store: StudyStore) -> int:
    return store.scan("runs").collect()["attempt"].max() or 0


def test_a_cluster_that_is_not_there_is_said(tmp_path: Path) -> None:
    words = ["submit", "quickstart", "--address", f"http://127.0.0.1:{_free_port()}"]
    done = subprocess.run(
        [sys.executable, "-m", "sparsing", *words], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 3, done.stderr
    assert "no Ray dashboard at" in done.stderr
    assert "Traceback" not in done.stderr
