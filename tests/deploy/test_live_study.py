"""A real study, as it trains, in a real Prometheus by the deployment's own configuration."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from real_prometheus import needs_prometheus, prometheus, use_here, wait_until

TOKEN = "0123456789abcdef"
PATIENCE_SECONDS = 900


def start(log: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    with log.open("w") as err:
        return subprocess.Popen(
            [sys.executable, "-m", "sparsing", *arguments],
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            env=os.environ | environment,
        )


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    process.wait(timeout=120)


@pytest.mark.slow
@needs_prometheus
@pytest.mark.timeout(1800)
def test_prometheus_follows_the_quickstart_study(tmp_path):
    store = tmp_path / "store"
    (store / ".targets").mkdir(parents=True)
    training = start(
        tmp_path / "run.log", "run", "quickstart", "--store", str(store), "--metrics-port", "0"
    )
    serving: list[subprocess.Popen[str]] = []
    try:
        wait_until(lambda: list(store.glob("*/study.yaml")), PATIENCE_SECONDS)
        served = start(
            tmp_path / "serve.log",
            *("serve", "quickstart", "--store", str(store), "--port", "0", "--json"),
            SPARSING_TOKEN=TOKEN,
        )
        serving.append(served)
        assert served.stdout
        assert json.loads(served.stdout.readline())["refits"]
        with prometheus(use_here(tmp_path, store, TOKEN, every="1s")) as query:

            def has(text: str) -> list[Any]:
                """The answer, once there is one; fails when the study or the service has ended."""

                def ask() -> list[Any]:
                    assert training.poll() is None, (tmp_path / "run.log").read_text()
                    assert served.poll() is None, (tmp_path / "serve.log").read_text()
                    return query(text)

                return wait_until(ask, PATIENCE_SECONDS)

            (run,) = {s["metric"]["run"] for s in has("topk(1, sparsing_run_tokens_total > 0)")}
            of_run = f'{{run="{run}"}}'
            assert float(has(f"sparsing_run_loss{of_run}")[0]["value"][1]) < 10
            assert has(f"increase(sparsing_run_tokens_total{of_run}[30s]) > 0")
            ratio = has(f"sparsing_activation_ratio{of_run}")
            assert 0 < float(ratio[0]["value"][1]) < 1
            assert has("study_run:sparsing_tokens_per_second_per_gpu > 0")
            assert has("study_run:sparsing_eta_seconds > 0")
            assert has("sparsing_placement_wait_seconds_count > 0")
            assert not query("sparsing_run_mfu_ratio")  # a CPU's peak is not known
            assert has(f"sparsing_law_activation_ratio{of_run} > 0")
            assert not query('ALERTS{severity="page", alertstate="firing", alertname!~".*Full"}')
    finally:
        for process in (training, *serving):
            stop(process)
