from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from stores import SetClock, state_row, tiny_store, tiny_study, write_rows

from sparsing.study.commands.main import cli
from sparsing.study.plan.runs import plan_runs

RUN, OTHER = (run.id for run in plan_runs(tiny_study()))
START = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("ahead_seconds", [3600, -3600])
def test_the_lines_of_a_run_are_in_its_own_order(tmp_path: Path, monkeypatch, ahead_seconds):
    store = tiny_store(tmp_path)
    monkeypatch.setattr("sparsing.study.store.rows.datetime", SetClock)
    told = [(RUN, 0, "waiting"), (RUN, 1, "training"), (OTHER, 2, "waiting"), (RUN, 3, "done")]
    for run, second, state in told:
        shard = state == "training"
        off = ahead_seconds if shard else 0
        monkeypatch.setattr(SetClock, "time", START + timedelta(seconds=second + off))
        row = state_row(state) | ({"device": "CPU"} if shard else {})
        write_rows(store, "runs", run, [row], stream="shard" if shard else "controller")

    def lines(*run: str) -> list[str]:
        done = CliRunner().invoke(cli, ["logs", "tiny", *run, "--store", str(tmp_path)])
        assert done.exit_code == 0, done.output
        return [line.split(" ", 1)[1] for line in done.output.splitlines()]

    mine = [f"{RUN}: {state}, attempt 1" for run, _, state in told if run == RUN]
    assert lines(RUN) == mine
    assert [line for line in lines() if line.startswith(RUN)] == mine
    assert len(lines()) == len(told)
