from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import psutil
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
    line = line.replace("start-node.sh background", "start-node.sh")
    line = line.replace("--autoscaling-config ~/ray_bootstrap_config.yaml", "")
    return line.replace("/shared/sparsing-code/deploy", str(DEPLOY))


def wait_for_start(log: Path) -> None:
    """One after the other: raylets that start at once on one machine may choose one socket."""
    deadline = time.monotonic() + 120
    while "Ray runtime started" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)


def raylets(keeper: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """What a node's keeper has started and keeps."""
    children = psutil.Process(keeper.pid).children(recursive=True)
    return [child for child in children if child.name() == "raylet"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_start_commands_make_a_cluster_that_wants_its_token_and_keeps_its_nodes(tmp_path):
    """A head and two raylets of this machine, by the lines of the YAML; one raylet is killed."""
    folder = Path(f"/tmp/sparsing-{os.getpid()}")
    first, dashboard, address = random.randrange(11_000, 30_000), free_port(), get_node_ip_address()
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    environment = os.environ | {
        "PATH": f"{SCRIPTS}:{os.environ['PATH']}",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_HEAD_IP": f"{address}:{first}",
        "SPARSING_DASHBOARD_PORT": str(dashboard),
        "SPARSING_AGAIN_SECONDS": "1",
    }
    here = f"--object-store-memory {100 * 2**20}"
    lines = [
        f"{start_lines('head_start_ray_commands')} {here} --temp-dir {folder}",
        f"{start_lines('worker_start_ray_commands')} {here} --num-cpus 2",
        f"{start_lines('worker_start_ray_commands')} {here} --num-cpus 3",
    ]
    ask = (
        "import json, ray; ray.init('auto', logging_level='ERROR')\n"
        "alive = [n for n in ray.nodes() if n['Alive']]\n"
        "print(json.dumps({n['NodeID']: n['Resources'].get('CPU', 0) for n in alive}))"
    )
    asking = environment | {"RAY_ADDRESS": f"{address}:{first}", "RAY_AUTH_MODE": "token"}

    def nodes_once(condition: Callable[[dict[str, float]], bool]) -> dict[str, float]:
        """CPUs of the nodes that are alive, once they are as wished."""
        deadline, found, said = time.monotonic() + 180, {}, ""
        while not found or not condition(found):
            assert time.monotonic() < deadline, f"{found} {said}"
            done = python(ask, asking)
            said = done.stderr
            found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
        return found

    keepers: list[subprocess.Popen[bytes]] = []
    started: list[psutil.Process] = []
    try:
        for number, line in enumerate(lines):
            log = (tmp_path / f"node-{number}.log").open("w")
            ports = f"{first + 500 * number}-{first + 500 * number + 499}"
            each = environment | {
                "SPARSING_PORTS": ports,
                "SPARSING_PID_FILE": str(tmp_path / f"node-{number}.pid"),
            }
            keepers.append(
                subprocess.Popen(
                    ["bash", "-c", f"exec {line.removeprefix('true && ')}"],
                    env=each,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )
            wait_for_start(Path(log.name))
        before = nodes_once(lambda found: sorted(found.values()) == [0, 2, 3])
        refused = python(ask, asking | {"RAY_AUTH_TOKEN": "another" * 8})
        assert refused.returncode != 0
        assert "oken" in refused.stderr

        (lost,) = raylets(keepers[2])
        lost.kill()
        after = nodes_once(
            lambda found: sorted(found.values()) == [0, 2, 3] and found.keys() != before.keys()
        )
        assert len(after.keys() & before.keys()) == 2
        for keeper in keepers:
            started += psutil.Process(keeper.pid).children(recursive=True)
    finally:
        for keeper in reversed(keepers):
            keeper.send_signal(signal.SIGTERM)
        for keeper in keepers:
            keeper.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)
    _, left = psutil.wait_procs(started, timeout=30)
    assert not left
