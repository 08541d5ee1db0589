"""A Ray cluster of real hosts, by the deployment's own commands, and a laptop beside it."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hosts import Host, Network
from real_prometheus import DEPLOY

WORKERS = ("one", "two", "three")
PATIENCE_SECONDS = 400.0
"""On a busy machine."""


class RayHosts:
    """A head without CPUs and workers with one each; all by start-node.sh.

    Args:
        network: empty.
        folder: short, for Ray's sockets; the store is in it.
        workers: their names.
    """

    def __init__(self, network: Network, folder: Path, workers: tuple[str, ...] = WORKERS) -> None:
        self.network, self.folder = network, folder
        self.head, self.laptop = network.add("head"), network.add("laptop")
        self.workers = [network.add(name) for name in workers]
        self.store = folder / "store"
        self.address = f"http://{self.head.address}:8265"
        token = folder / "token"
        token.touch(0o600)
        token.write_text("0123456789abcdef" * 4)

    def environment(self, host: Host) -> dict[str, str]:
        """Of what runs on a host."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "SPARSING_"))}
        return kept | {
            "HOME": str(host.folder / "home"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(DEPLOY.parent),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_worker_niceness": "0",
            "SPARSING_DASHBOARD_HOST": "0.0.0.0",
            "SPARSING_STORE": str(self.store),
            "SPARSING_AGAIN_SECONDS": "2",
        }

    def start(self) -> None:
        """Start Ray on all hosts, as the guide says."""
        for host in (self.head, *self.workers):
            self.start_ray(host)
        self.until(lambda: self.alive() == len(self.workers) + 1, "all hosts have joined")

    def start_ray(self, host: Host) -> None:
        """What a unit of systemd does when a host starts."""
        words = ["head"] if host is self.head else ["worker", self.head.address]
        cpus = [] if host is self.head else ["--num-cpus", "1"]
        host.start(
            str(DEPLOY / "start-node.sh"),
            *(*words, *cpus, "--object-store-memory", str(80 * 2**20)),
            *("--temp-dir", str(self.folder / host.name / "ray")),
            environment=self.environment(host),
            log=host.folder / "ray.log",
        )

    def alive(self) -> int:
        """Nodes that Ray calls alive; 0 where the head does not answer."""
        return sum(node["state"] == "ALIVE" for node in self.asked("/api/v0/nodes"))

    def asked(self, path: str) -> list[dict[str, Any]]:
        """What Ray's state API says, asked on the head; empty where it does not answer."""
        code = (
            "import sys, urllib.request\n"
            f"asked = urllib.request.Request('http://127.0.0.1:8265{path}')\n"
            f"asked.add_header('Authorization', 'Bearer ' + open('{self.folder}/token').read())\n"
            "sys.stdout.write(urllib.request.urlopen(asked, timeout=20).read().decode())\n"
        )
        words = [sys.executable, "-S", "-c", code]
        done = self.head.run(*words, environment=self.environment(self.head), seconds=60)
        if done.returncode:
            return []
        return json.loads(done.stdout)["data"]["result"]["result"]

    def sparsing(self, *words: str, on: Host | None = None) -> Any:
        """A command of ours, on the laptop unless said otherwise."""
        host = on or self.laptop
        return host.run(
            *(sys.executable, "-m", "sparsing", *words),
            environment=self.environment(host),
            seconds=PATIENCE_SECONDS,
        )

    def where(self, title: str) -> list[Host]:
        """Hosts that have a process with this title."""
        return [host for host in self.network.hosts.values() if host.processes(title)]

    def until(self, condition: Callable[[], object], what: str) -> float:
        """Wait; returns the seconds that it took."""
        started = time.monotonic()
        while not condition():
            waited = time.monotonic() - started
            assert waited < PATIENCE_SECONDS, f"not within {PATIENCE_SECONDS:g} s: {what}"
            time.sleep(0.5)
        return time.monotonic() - started


def read_json(url: str) -> Any:
    """A JSON document."""
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)
