"""Alerts fire by real faults: killed processes, a real law service, a real Prometheus.

The rules are those of the deployment; only their times are seconds here.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from real_prometheus import needs_prometheus, prometheus, use_here, wait_until
from stores import state_row, tiny_store, write_rows

from sparsing.study.plan.runs import plan_runs

TOKEN = "0123456789abcdef"
PATIENCE_SECONDS = 180.0
QUICKER = {
    "> 1800": "> 6",
    "[30m:1m]": "[6s:1s]",
    "for: 1m": "for: 2s",
    "for: 5m": "for: 2s",
    "[6h]": "[1h]",
}
HOLD = """
import sys, time
from pathlib import Path
from sparsing.study.store.control.lease import acquire, study_cell
acquire(study_cell(Path(sys.argv[1])))
print("held", flush=True)
time.sleep(3600)
"""


def hurry(rules: Path) -> None:
    """Seconds for minutes, in rules as they are deployed."""
    text = rules.read_text()
    for usual, quick in QUICKER.items():
        assert usual in text, usual
        text = text.replace(usual, quick)
    rules.write_text(text)


def start(*words: str, **environment: str) -> subprocess.Popen[str]:
    """A process that has said its first line."""
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, text=True, env=os.environ | environment
    )
    assert process.stdout
    assert process.stdout.readline()
    return process


@pytest.mark.slow
@needs_prometheus
@pytest.mark.timeout(900)
def test_a_killed_controller_a_stalled_measurement_and_a_killed_service_are_told(tmp_path):
    store = tiny_store(tmp_path / "store")
    relu, silu = (run.id for run in plan_runs(store.study))
    write_rows(store, "runs", relu, [state_row("measuring")], stream="controller")
    write_rows(store, "runs", silu, [state_row("planned")], stream="controller")
    serve = ("-m", "sparsing", "serve", "--all", "--store", str(tmp_path / "store"), "--port", "0")
    running = [
        start("-c", HOLD, str(store.path)),
        start(*serve, "--no-refit", SPARSING_TOKEN=TOKEN),
    ]
    config = use_here(tmp_path, tmp_path / "store", TOKEN, every="1s")
    hurry(tmp_path / "alerts.yml")
    try:
        with prometheus(config) as query:

            def firing(name: str) -> Callable[[], bool]:
                return lambda: bool(query(f'ALERTS{{alertname="{name}",alertstate="firing"}}'))

            wait_until(firing("SparsingMeasuringStalled"), PATIENCE_SECONDS)
            assert query("sparsing_controller_up == 1")
            assert not firing("SparsingNoController")()

            running[0].kill()
            wait_until(firing("SparsingNoController"), PATIENCE_SECONDS)
            assert not firing("SparsingLawServiceDown")()

            running.append(start("-c", HOLD, str(store.path)))
            wait_until(lambda: query("sparsing_controller_up == 1"), PATIENCE_SECONDS)
            wait_until(lambda: not firing("SparsingNoController")(), PATIENCE_SECONDS)
            running[1].kill()
            wait_until(firing("SparsingLawServiceDown"), PATIENCE_SECONDS)
    finally:
        for process in running:
            process.kill()
            process.wait(30)
