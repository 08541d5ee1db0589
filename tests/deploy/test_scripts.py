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
from typing import Any

import pytest
import yaml
from real_prometheus import DEPLOY

SCRIPTS = Path(sysconfig.get_path("scripts"))
CLUSTER = DEPLOY / "ray-cluster.yaml"


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=120, **options
    )


def test_the_dockerfile_is_clean():
    done = run(SCRIPTS / "hadolint", DEPLOY / "Dockerfile")
    assert done.returncode == 0, done.stdout


def test_the_dockerfile_pins_what_is_tested_and_leaves_root():
    text = (DEPLOY / "Dockerfile").read_text()
    makefile = (DEPLOY.parent / "Makefile").read_text()
    for name in ("TORCH_VERSION", "TRITON_VERSION"):
        version = makefile.split(f"{name} := ")[1].split("\n")[0]
        assert f"ARG {name}={version}\n" in text
    final = text.rpartition("FROM ")[2]
    assert "\nUSER 10001:10001\n" in final
    kept = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    copied = [line.split()[1:-1] for line in text.split("\n") if line.startswith("COPY ")]
    for path in (each for line in copied for each in line if each.startswith(("deploy", "req"))):
        assert f"!{path}" in kept
        assert (DEPLOY.parent / path).exists()


SHELL = [*sorted(DEPLOY.glob("*.sh")), DEPLOY.parent / ".ci" / "run"]


@pytest.mark.parametrize("script", SHELL, ids=lambda path: path.name)
def test_scripts_are_clean(script):
    done = run(SCRIPTS / "shellcheck", "-x", script)
    assert done.returncode == 0, done.stdout
    assert script.name == "nccl.sh" or os.access(script, os.X_OK)


def test_ci_fails_where_a_program_is_missing(tmp_path):
    """With neither the programs nor apt-get on the path, before anything is built."""
    for name in ("bash", "dirname", "id"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    done = run(tmp_path / "bash", DEPLOY.parent / ".ci" / "run", env={"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert "apt-get install chromium" in done.stderr


@pytest.mark.parametrize("arguments", [(), ("worker",), ("heads",)])
def test_a_wrong_role_is_named(arguments):
    done = run(DEPLOY / "start-node.sh", *arguments)
    assert done.returncode == 2
    assert "start-node.sh" in done.stderr


def test_ray_accepts_the_cluster_yaml():
    check = (
        "import sys, yaml\n"
        "from ray.autoscaler._private.util import prepare_config, validate_config\n"
        "validate_config(prepare_config(yaml.safe_load(open(sys.argv[1]))))"
    )
    done = run(sys.executable, "-c", check, CLUSTER)
    assert done.returncode == 0, done.stderr
    wrong = yaml.safe_load(CLUSTER.read_text()) | {"head_start_commands": ["ray start"]}
    done = run(sys.executable, "-c", check, "/dev/stdin", input=yaml.safe_dump(wrong))
    assert done.returncode != 0
    assert "head_start_commands" in done.stderr


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


@pytest.mark.slow
def test_the_start_commands_make_a_cluster_that_wants_its_token(tmp_path):
    """A head and two raylets of this machine, by the lines of the YAML."""
    folder = Path(f"/tmp/sparsing-{os.getpid()}")
    port, dashboard = free_port(), free_port()
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    environment = os.environ | {
        "PATH": f"{SCRIPTS}:{os.environ['PATH']}",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_HEAD_IP": f"127.0.0.1:{port}",
        "SPARSING_RAY_PORT": str(port),
        "SPARSING_DASHBOARD_PORT": str(dashboard),
    }
    here = f"--node-ip-address 127.0.0.1 --object-store-memory {100 * 2**20} --block"
    lines = [
        f"{start_lines('head_start_ray_commands')} {here} --temp-dir {folder}",
        f"{start_lines('worker_start_ray_commands')} {here} --num-cpus 2",
        f"{start_lines('worker_start_ray_commands')} {here} --num-cpus 3",
    ]
    ask = "import json, ray; ray.init('auto'); print(json.dumps(ray.cluster_resources()))"
    asking = environment | {"RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_AUTH_MODE": "token"}
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
            time.sleep(8)
        deadline = time.monotonic() + 120
        found: dict[str, float] = {}
        said = ""
        while found.get("CPU") != 5:
            assert time.monotonic() < deadline, f"{found} {said}"
            done = run(sys.executable, "-c", ask, env=asking)
            said = done.stderr
            found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
        refused = run(sys.executable, "-c", ask, env=asking | {"RAY_AUTH_TOKEN": "another" * 8})
        assert refused.returncode != 0
        assert "oken" in refused.stderr
    finally:
        for process in processes:
            os.killpg(process.pid, 15)
        for process in processes:
            process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)
