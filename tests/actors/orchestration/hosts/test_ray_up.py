"""`ray up` with the shipped file, by ssh: all hosts join; one whose power failed joins again."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hosts import Host, Network, why_not
from ray_hosts import RayHosts
from real_prometheus import DEPLOY

SSHD = "/usr/sbin/sshd"
WORKERS = ("one", "two")
CONFIGURATION = """
Port 22
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
StrictModes no
UsePAM no
PidFile none
"""
missing = [name for name in (SSHD, "ssh", "rsync") if not shutil.which(name)]
why = why_not() or (f"no {', '.join(missing)}" if missing else None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(bool(why), reason=f"no hosts with ssh here: {why}"),
]


class UpHosts(RayHosts):
    """The cluster as `ray up` starts it: by ssh, each host with a home of its own."""

    def prepare(self) -> None:
        """Keys, an ssh server on each host, and a checkout of which only `.venv` is made up."""
        for name in ("key", "host_key"):
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)]
            subprocess.run(words, check=True)
        (self.folder / "sshd").write_text(CONFIGURATION.format(folder=self.folder))
        code = self.folder / "code"
        (code / ".venv" / "bin").mkdir(parents=True)
        (code / "deploy").symlink_to(DEPLOY)
        paths = f"export PATH={Path(sys.executable).parent}:$PATH PYTHONPATH={DEPLOY.parent}\n"
        (code / ".venv" / "bin" / "activate").write_text(paths)
        command = code / ".venv" / "bin" / "sparsing"
        command.write_text(f'#!/bin/sh\n{paths}exec python -m sparsing "$@"\n')
        command.chmod(0o755)
        token = self.laptop.folder / "home" / ".ray" / "auth_token"
        token.parent.mkdir(parents=True)
        shutil.copy(self.folder / "token", token)
        for host in (self.head, *self.workers):
            self.serve_ssh(host)

    def serve_ssh(self, host: Host) -> None:
        """What a host starts by itself."""
        words = [SSHD, "-D", "-e", "-f", str(self.folder / "sshd")]
        environment = self.environment(host)
        host.run("mkdir", "-p", "/run/sshd", environment=environment, seconds=10)
        host.start(*words, environment=environment, log=host.folder / "sshd.log")

    def definition(self) -> Path:
        """The shipped file, with these addresses and paths, and little memory."""
        text = (DEPLOY / "ray-cluster.yaml").read_text()
        text = text.replace("/shared/sparsing-code", str(self.folder / "code"))
        config = yaml.safe_load(text)
        config["provider"] |= {
            "head_ip": self.head.address,
            "worker_ips": [host.address for host in self.workers],
        }
        config["auth"] = {"ssh_user": "root", "ssh_private_key": str(self.folder / "key")}
        machines = len(self.workers) + 1
        config["available_node_types"]["local.cluster.node"] |= {
            "min_workers": machines,
            "max_workers": machines,
        }
        config["max_workers"] = machines
        memory = f" --object-store-memory {80 * 2**20}"
        for key in ("head_start_ray_commands", "worker_start_ray_commands"):
            config[key] = [line + memory * ("start-node" in line) for line in config[key]]
        file = self.folder / "ray-cluster.yaml"
        file.write_text(yaml.safe_dump(config))
        return file


@pytest.fixture
def cluster() -> Iterator[UpHosts]:
    folder = Path(tempfile.mkdtemp(prefix="u", dir="/var/tmp"))
    with Network(folder) as network:
        made = UpHosts(network, folder, WORKERS)
        made.prepare()
        yield made
    shutil.rmtree(folder, ignore_errors=True)


def test_all_hosts_join_and_one_whose_power_failed_joins_again(cluster: UpHosts) -> None:
    laptop = cluster.laptop
    done = laptop.run(
        *("ray", "up", "--yes", "--no-config-cache", str(cluster.definition())),
        environment=cluster.environment(laptop),
        seconds=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    took = cluster.until(lambda: cluster.alive() == len(WORKERS) + 1, "all hosts have joined")
    print(f"all hosts have joined {took:.0f} s after `ray up`", flush=True)

    host = cluster.workers[-1]
    host.kill()
    cluster.until(lambda: cluster.alive() == len(WORKERS), "its loss is noticed")
    cluster.network.start_again(host.name)
    cluster.serve_ssh(host)
    took = cluster.until(lambda: cluster.alive() == len(WORKERS) + 1, "it has joined again")
    print(f"a host that was started again has joined after {took:.0f} s", flush=True)
