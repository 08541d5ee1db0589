"""Hosts with addresses of their own on this machine, joined by a switch whose cables can be cut.

Each host is a network, process, mount, IPC and host-name namespace: its processes see neither those
of others nor their shared memory, and die with it. All hosts see this machine's files, so that the
store is a folder that they share; only `/tmp/ray`, `/dev/shm`, root's home and `/etc/hosts` are
their own, the last as Debian makes it, with `127.0.1.1` for the host's name.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

SUBNET = "10.77.0"
NAMESPACES = ("--net", "--pid", "--mount", "--uts", "--ipc")
START = """
set -e
hostname {name}
mkdir -p /tmp/ray
mount -t tmpfs none /tmp/ray
mount -t tmpfs -o size=1g none /dev/shm
mount --bind {folder}/hosts /etc/hosts
mkdir -p {folder}/home
sed 's#^root:.*#root:x:0:0:root:{folder}/home:/bin/bash#' /etc/passwd > {folder}/passwd
mount --bind {folder}/passwd /etc/passwd
touch {folder}/up
exec sleep infinity
"""


def why_not() -> str | None:
    """Why there can be no such hosts here; None where there can."""
    if os.geteuid():
        return "network namespaces need root"
    name = f"sparsing-probe-{os.getpid()}"
    for command in (["ip", "netns", "add", name], ["ip", "netns", "del", name]):
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            return "there is no `ip`: apt-get install iproute2"
        if done.returncode:
            return f"`{' '.join(command)}`: {done.stderr.strip()}"
    return None


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@dataclass
class Host:
    """One host; made by a Network."""

    name: str
    address: str
    folder: Path
    """Its own files."""
    netns: str
    port: str
    """Its cable's end at the switch."""
    switch: str
    init: subprocess.Popen[bytes]
    running: list[subprocess.Popen[Any]] = field(default_factory=list)

    @property
    def _leader(self) -> int:
        """The first process in its namespaces, as this machine numbers it."""
        (leader,) = psutil.Process(self.init.pid).children()
        return leader.pid

    def command(self, words: Sequence[str]) -> list[str]:
        """A command as it is carried out there."""
        return ["nsenter", "--target", str(self._leader), *NAMESPACES, "--", *words]

    def start(self, *words: str, environment: dict[str, str], log: Path) -> subprocess.Popen[Any]:
        """Start something there, that ends with the host."""
        with log.open("a") as output:
            process = subprocess.Popen(
                self.command(words),
                env=environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.running.append(process)
        return process

    def run(
        self, *words: str, environment: dict[str, str], seconds: float
    ) -> subprocess.CompletedProcess[str]:
        """Carry something out there."""
        return subprocess.run(
            self.command(words), env=environment, capture_output=True, text=True, timeout=seconds
        )

    def processes(self, title: str) -> list[psutil.Process]:
        """Of this host alone, those whose command line has the title."""
        inside = os.readlink(f"/proc/{self._leader}/ns/pid")
        found = []
        for process in psutil.process_iter():
            try:
                there = os.readlink(f"/proc/{process.pid}/ns/pid") == inside
                if there and title in " ".join(process.cmdline()):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def cut(self) -> None:
        """Pull its cable."""
        _ip("-n", self.switch, "link", "set", "dev", self.port, "down")

    def mute(self) -> None:
        """From now on it hears all others, and none of them hears it."""
        _ip("-n", self.netns, "route", "replace", f"{SUBNET}.0/24", "dev", "nowhere")

    def slow(self, kilobits: int) -> None:
        """From now on its link is slow, in what it is sent."""
        _tc = ["tc", "-n", self.switch, "qdisc", "replace", "dev", self.port, "root", "tbf"]
        subprocess.run(
            [*_tc, "rate", f"{kilobits}kbit", "burst", "64kbit", "latency", "800ms"], check=True
        )

    def heal(self) -> None:
        """Undo all of these."""
        _ip("-n", self.switch, "link", "set", "dev", self.port, "up")
        subprocess.run(
            ["tc", "-n", self.switch, "qdisc", "del", "dev", self.port, "root"],
            capture_output=True,
        )
        _ip("-n", self.netns, "route", "replace", f"{SUBNET}.0/24", "dev", "eth0")

    def kill(self) -> None:
        """All its processes at once, as when the power fails: nobody says goodbye."""
        self.cut()
        self.init.kill()
        self.init.wait()
        for process in self.running:
            process.wait()
        self.running.clear()


class Network:
    """Hosts on one switch. A context manager: at its end nothing is left of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tag = f"sp{os.getpid()}"
        self._switch = f"{self._tag}-switch"
        self.hosts: dict[str, Host] = {}

    def __enter__(self) -> Network:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "name", "switch0", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "dev", "switch0", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts.values():
            host.kill()
            _ip("netns", "del", host.netns)
        _ip("netns", "del", self._switch)

    def add(self, name: str) -> Host:
        """One more host."""
        number = len(self.hosts) + 1
        netns, port, address = f"{self._tag}-{name}", f"port{number}", f"{SUBNET}.{number}"
        _ip("netns", "add", netns)
        link = ["-n", self._switch, "link"]
        _ip(*link, "add", "name", port, "type", "veth", "peer", "name", "eth0", "netns", netns)
        _ip(*link, "set", "dev", port, "master", "switch0", "up")
        _ip("-n", netns, "addr", "add", f"{address}/24", "dev", "eth0")
        # A cable that ends nowhere: what goes there is lost, without a word.
        end = ["type", "veth", "peer", "name", f"lost{number}", "netns", self._switch]
        _ip("-n", netns, "link", "add", "name", "nowhere", *end)
        _ip("-n", netns, "link", "set", "dev", "nowhere", "arp", "off")
        _ip(*link, "set", "dev", f"lost{number}", "up")
        for device in ("lo", "eth0", "nowhere"):
            _ip("-n", netns, "link", "set", "dev", device, "up")
        folder = self._folder / name
        folder.mkdir()
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n")
        host = Host(
            name=name,
            address=address,
            folder=folder,
            netns=netns,
            port=port,
            switch=self._switch,
            init=_init(netns, name, folder),
        )
        self.hosts[name] = host
        return host

    def start_again(self, name: str) -> None:
        """A host that was killed is there again, without anything running."""
        host = self.hosts[name]
        (host.folder / "up").unlink()
        host.heal()
        host.init = _init(host.netns, name, host.folder)


def _init(netns: str, name: str, folder: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [
            *("ip", "netns", "exec", netns, "unshare", "--fork", "--kill-child"),
            *("--pid", "--mount", "--uts", "--ipc", "--mount-proc"),
            *("bash", "-c", START.format(name=name, folder=folder)),
        ],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    deadline = time.monotonic() + 30
    while not (folder / "up").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process
