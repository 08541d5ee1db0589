"""The address of a Ray cluster: which one is meant, and whether it is safe to talk to it."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from sparsing.study.errors import DefinitionError

NAMESPACE = "sparsing"
"""Of our actors, on any cluster."""
OVERRIDES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Variables that Ray's clients obey instead of the address that they are given."""

ADVICE = (
    "make a token with `ray get-auth-token --generate`, start the cluster with "
    "RAY_AUTH_MODE=token, "
    "and set it here as well (the token goes into ~/.ray/auth_token or RAY_AUTH_TOKEN)"
)


def check_dashboard(address: str) -> str:
    """The address of a dashboard, as it was given.

    Raises:
        DefinitionError: it is none. Ray would take it for that of the cluster's control service,
            and wait for it.
    """
    try:
        parts = urlsplit(address)
        known = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port  # a ValueError where it is no number
    except ValueError:
        known = False
    if not known:
        host = "127.0.0.1" if address in ("auto", "local") else address.rpartition("://")[2]
        host = host.rpartition(":")[0] or host
        raise DefinitionError(
            f"--address {address}: give the cluster's dashboard, as http://{host}:8265"
        )
    return address


@contextmanager
def address_alone() -> Iterator[dict[str, str]]:
    """Within it Ray's clients go where they are told; gives the variables that say otherwise."""
    masked = {name: os.environ.pop(name) for name in OVERRIDES if name in os.environ}
    try:
        yield masked
    finally:
        os.environ.update(masked)


def token_problem(address: str) -> str | None:
    """What is wrong with using a Ray cluster there, or None: whoever reaches it runs code on it."""
    if is_loopback(address):
        return None
    file = _token_file()
    mode = os.environ.get("RAY_AUTH_MODE", "token" if _has_token(file) else "disabled")
    if mode != "token":
        return f"{address} is no loopback address, and RAY_AUTH_MODE is not `token`: {ADVICE}"
    if not _has_token(file):
        return f"RAY_AUTH_MODE is `token`, and there is no token: {ADVICE}"
    if not os.environ.get("RAY_AUTH_TOKEN") and file.stat().st_mode & 0o077:
        return f"others on this machine can read the token: chmod 600 {file}"
    return None


def is_loopback(address: str) -> bool:
    """Whether an address (`http://host:port`, `ray://...`, `host:port`, `auto`) is this machine."""
    if address in ("auto", "local"):
        return True
    host = urlsplit(address if "://" in address else f"//{address}").hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _has_token(file: Path) -> bool:
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or file.is_file()


def _token_file() -> Path:
    """Where Ray looks for the token."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
