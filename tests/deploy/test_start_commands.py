from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
import yaml
from ray.util import get_node_ip_address
from real_prometheus import DEPLOY

SCRIPTS = Path(sysconfig.get_path("scripts"))
CLUSTER = DEPLOY / "ray-cluster.yaml"


def python(code: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_lines(key: str) -> str:
    """The line of the YAML that starts Ray, as this machine runs it."""
    (line,) = (each for each in yaml.safe_load(CLUSTER.read_text())[key] if "start-node" in each)
    line = line.replace("source /shared/sparsing-code/.venv/bin/activate", "true")
    line = line.replace("--autoscaling-config ~/ray_bootstrap_config.yaml", "")
    return line.replace("/shared/sparsing-code/deploy", str(DEPLOY))


def wait_for_start(log: Path) -> None:
    """One after the other: raylets that start at once on one machine may choose one socket."""
    deadline = time.monotonic() + 120
    while "Ray runtime started" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)


@pytest.mark.slow
def test_the_start_commands_make_a_cluster_that_wants_its_token(tmp_path):
    """A head and two raylets of this machine, by the lines of the YAML."""
    folder = Path(f"/tmp/sparsing-{os.getpid()}")
    port, dashboard, address = free_port(), free_port(), get_node_ip_address()
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    environment = os.environ | {
        "PATH": f"{SCRIPTS}:{os.environ['PATH']}",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_HEAD_IP": f"{address}:{port}",
        "SPARSING_RAY_PORT": str(port),
        "SPARSING_DASHBOARD_PORT": str(dashboard),
    }
    here = f"--object-store-memory {100 * 2**20} --block"
    lines = [
        f"{start_lines('head_start_ray_commands')} {here} --temp-dir {folder}",
        f"{start_lines('worker_start_ray_commands')} {here} --num-cpus 2",
        f"{start_lines('worker_start_ray_commands')} {here} --num-cpus 3",
    ]
    ask = "import json, ray; ray.init('auto'); print(json.dumps(ray.cluster_resources()))"
    asking = environment | {"RAY_ADDRESS": f"{address}:{port}", "RAY_AUTH_MODE": "token"}
    processes = []
    try:
        for number, line in enumerate(lines):
            log = (tmp_path / f"node-{number}.log").open("w")
            each = environment | {"SPARSING_METRICS_PORT": str(free_port())}
            processes.append(
                subprocess.Popen(
                    ["bash", "-c", line], env=each, stdout=log, stderr=log, start_new_session=True
                )
            )
            wait_for_start(Path(log.name))
        deadline = time.monotonic() + 120
        found: dict[str, float] = {}
        said = ""
        while found.get("CPU") != 5:
            time.sleep(1)
            assert time.monotonic() < deadline, f"{found} {said}"
            done = python(ask, asking)
            said = done.stderr
            found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
        refused = python(ask, asking | {"RAY_AUTH_TOKEN": "another" * 8})
        assert refused.returncode != 0
        assert "oken" in refused.stderr
    finally:
        for process in processes:
            os.killpg(process.pid, 15)
        for process in processes:
            process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)
