from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
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
