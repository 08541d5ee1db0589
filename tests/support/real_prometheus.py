"""A real Prometheus server with the configuration of `deploy/`, for tests."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
Query = Callable[[str], list[Any]]


needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="needs Prometheus: `apt-get install prometheus`",
)


def use_here(folder: Path, store: Path, token: str, every: str) -> Path:
    """The deployment's configuration with this machine's paths, and quick; its file in `folder`."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": every, "evaluation_interval": every}
    (folder / "token").write_text(token)
    for scrape in config["scrape_configs"]:
        scrape.pop("scrape_timeout", None)
        for discovery in scrape["file_sd_configs"]:
            discovery["files"] = [
                file.replace("/shared/sparsing", str(store)) for file in discovery["files"]
            ]
        if "authorization" in scrape:
            scrape["authorization"]["credentials_file"] = str(folder / "token")
    for name in config["rule_files"]:
        rules = yaml.safe_load((PROMETHEUS / name).read_text())
        (folder / name).write_text(yaml.safe_dump(rules))
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    return file


@contextmanager
def prometheus(config: Path) -> Iterator[Query]:
    """A real server with a configuration; gives its PromQL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    options = {
        "config.file": config,
        "storage.tsdb.path": config.parent / "data",
        "web.listen-address": address,
    }
    log = (config.parent / "prometheus.log").open("w")
    command = ["prometheus", *(f"--{name}={option}" for name, option in options.items())]
    process = subprocess.Popen(command, stdout=log, stderr=log)

    def query(text: str) -> list[Any]:
        encoded = urllib.parse.urlencode({"query": text})
        try:
            with urllib.request.urlopen(f"http://{address}/api/v1/query?{encoded}") as answer:
                return json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            if error.code == 503:  # it starts
                return []
            raise AssertionError(f"{text}: {error.read()!r}") from error
        except OSError:
            assert process.poll() is None, (config.parent / "prometheus.log").read_text()
            return []

    try:
        yield query
    finally:
        process.terminate()
        process.wait(timeout=30)
        log.close()


def wait_until(ask: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What `ask` says as soon as that is something."""
    deadline = time.monotonic() + seconds
    while not (found := ask()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
    return found
