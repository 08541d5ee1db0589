"""Whether the cluster is reached from here: asked by TCP, for Ray waits and tries again."""

from __future__ import annotations

import socket

import psutil
import ray

CONNECT_SECONDS = 3.0
"""A host in reach takes a connection within this time, also over a slow link."""
TRIES = 3


def is_cut_off() -> bool:
    """Whether this process does not reach the cluster's control service; takes 9 s where so."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    return not any(takes_connections(host.strip("[]"), int(port)) for _ in range(TRIES))


def takes_connections(host: str, port: int) -> bool:
    """Whether something at this address takes a TCP connection."""
    try:
        with socket.create_connection((host, port), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False


def interface_of(address: str) -> str | None:
    """The network interface of this machine that has an address; None where there is none."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == address for each in addresses):
            return name
    return None
