"""How this process and the cluster reach each other.

Whether somebody is in reach is asked by TCP, for Ray waits and tries again.
"""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address

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


def node_address() -> str:
    """The address by which other nodes reach this one: Ray's, whatever /etc/hosts says."""
    here = ray.get_runtime_context().get_node_id()
    return next(node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == here)


def use_interface_of(address: str) -> None:
    """Have gloo and NCCL meet other shards over the interface that has an address.

    Left to themselves they take that of the host's name, which on Debian is 127.0.1.1. What is set
    in the environment stays.
    """
    interface = interface_of(address)
    if interface is None or ip_address(address).is_loopback:
        return
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, interface)


def interface_of(address: str) -> str | None:
    """The network interface of this machine that has an address; None where there is none."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == address for each in addresses):
            return name
    return None
