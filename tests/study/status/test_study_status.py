from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from stores import (
    checkpoint_row,
    fit_row,
    sparsity_row,
    state_row,
    step_row,
    tiny_store,
    tiny_study,
    write_rows,
)

from sparsing.study.commands.main import cli
from sparsing.study.display.live import live_view
from sparsing.study.display.status import events, limit_text, status_table, unattended_text
from sparsing.study.plan.runs import plan_runs
from sparsing.study.status.study_status import RunStatus, StudyStatus
from sparsing.study.store.control.lease import acquire, study_cell
from sparsing.study.store.study_store import StudyStore

RELU, SILU = (run.id for run in plan_runs(tiny_study()))


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    return tiny_store(tmp_path)


def relu(store: StudyStore) -> RunStatus:
    return StudyStatus.read(store).runs[0]


def invoke(store: StudyStore, *arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments, "--store", str(store.path.parent)])


def train(store: StudyStore, run: str = RELU, attempt: int = 1, steps: int = 32) -> None:
    """A run in training on its way to step 64, with two checkpoints of four."""
    write_rows(store, "runs", run, [state_row("waiting")], attempt=attempt, stream="controller")
    device = {"device": "CPU, float32, ZeRO 0"}
    write_rows(
        store, "runs", run, [state_row("training") | device], attempt=attempt, stream="shard"
    )
    for step in range(1, steps + 1):
        write_rows(store, "steps", run, [step_row(step)], attempt=attempt)
    for step in (16, 32):
        rows = [checkpoint_row(step), checkpoint_row(step, domain="code")]
        write_rows(store, "checkpoints", run, rows, attempt=attempt)


def test_an_empty_store_is_all_planned(store):
    status = StudyStatus.read(store)
    assert [run.run.id for run in status.runs] == [RELU, SILU]
    assert status.states["planned"] == 2
    assert not status.ended
    run = status.runs[0]
    assert (run.state, run.attempt, run.tokens, run.checkpoints) == ("planned", 0, 0, 0)
    assert {run.loss, run.eta_seconds, run.activation_ratio, run.age_seconds} == {None}


def test_a_run_in_training(store):
    train(store)
    run = relu(store)
    assert (run.state, run.attempt, run.device) == ("training", 1, "CPU, float32, ZeRO 0")
    assert (run.tokens, run.checkpoints, run.loss) == (512, 2, 5.0 / 33)
    assert run.tokens_per_second == 100.0
    assert run.eta_seconds == pytest.approx(5.12)
    assert 0 <= run.age_seconds < 60
    assert StudyStatus.read(store).runs[1].state == "planned"


def test_speed_and_time_left_are_of_the_newest_attempt_in_training_only(store):
    train(store)
    write_rows(store, "runs", RELU, [state_row("planned", reason="lost")], stream="controller")
    run = relu(store)
    assert (run.state, run.reason) == ("planned", "lost")
    assert (run.tokens_per_second, run.eta_seconds, run.tokens) == (None, None, 512)
    train(store, attempt=2)
    run = relu(store)
    assert (run.state, run.attempt, run.device) == ("training", 2, "CPU, float32, ZeRO 0")


def test_final_measurements_come_before_live_ones_and_newer_before_older(store):
    rows = [
        sparsity_row(16, 0.5),
        sparsity_row(16, 0.6, layer=0),
        sparsity_row(16, 0.7, domain="x"),
    ]
    write_rows(store, "sparsity", RELU, rows, stream="live")
    assert (relu(store).activation_ratio, relu(store).stage) == (0.5, "live")
    write_rows(store, "sparsity", RELU, [sparsity_row(16, 0.55, stage="final")], stream="final")
    write_rows(store, "sparsity", RELU, [sparsity_row(32, 0.4)], stream="live")
    assert (relu(store).activation_ratio, relu(store).stage) == (0.55, "final")
    write_rows(store, "sparsity", RELU, [sparsity_row(32, 0.45, stage="final")], stream="final")
    assert relu(store).activation_ratio == 0.45


def test_the_limit_is_of_the_newest_fit_or_not_identified(store):
    assert limit_text(relu(store)) == ""
    write_rows(store, "fits", RELU, [fit_row(16)])
    assert limit_text(relu(store)) == "not identified"
    limit = {"limit_activation_ratio": 0.0617, "limit_high": 0.07}
    write_rows(store, "fits", RELU, [fit_row(32, **limit)])
    assert limit_text(relu(store)) == "0.0617 [.., 0.07]"
    write_rows(store, "fits", RELU, [fit_row(48, **limit, limit_low=0.05)])
    assert limit_text(relu(store)) == "0.0617 [0.05, 0.07]"


def test_status_as_a_table_and_as_json(store):
    train(store)
    write_rows(store, "fits", RELU, [fit_row(32)])
    shown = invoke(store, "status", "tiny")
    assert shown.exit_code == 0
    (line,) = [line for line in shown.stdout.splitlines() if RELU in line]
    for text in ("training", "512 of 1.02K", "100", "2/4", "5 s", "not identified"):
        assert text in line
    document = json.loads(invoke(store, "status", "tiny", "--json").stdout)
    assert document["study"] == store.study_id
    assert document["states"]["training"] == 1
    run = document["runs"][0]
    assert (run["run"], run["tokens"], run["tokens_planned"]) == (RELU, 512, 1024)
    assert (run["checkpoints"], run["checkpoints_planned"]) == (2, 4)
    assert run["law"] == "relu"
    assert run["limit"] is None


def test_status_without_a_study_lists_the_studies(store):
    train(store)
    broken = tiny_store(store.path.parent, name="broken")
    (broken.path / "study.yaml").write_text("name: [")
    lines = invoke(store, "status").stdout.splitlines()
    assert any(broken.study_id in line and "damaged" in line for line in lines)
    assert any(store.study_id in line and "1 planned, 1 training" in line for line in lines)
    found = json.loads(invoke(store, "status", "--json").stdout)["studies"]
    assert [row.get("tokens") for row in found] == [None, 512]


def test_no_studies_says_how_to_make_one(tmp_path):
    shown = CliRunner().invoke(cli, ["status", "--store", str(tmp_path / "none")])
    assert (shown.exit_code, "sparsing run" in shown.stdout) == (0, True)


def test_events_are_what_changed_once(store):
    before = StudyStatus.read(store)
    assert list(events(None, before)) == [f"study {store.study_id}: 2 planned"]
    train(store)
    write_rows(store, "sparsity", RELU, [sparsity_row(32, 0.4)], stream="live")
    write_rows(store, "fits", RELU, [fit_row(32)])
    now = StudyStatus.read(store)
    assert list(events(before, now)) == [
        f"{RELU}: training, on CPU, float32, ZeRO 0",
        f"{RELU}: checkpoint 2/4, 512 of 1.02K tokens, loss 0.152, 100 tokens/s, 5 s left",
        f"{RELU}: activation ratio 0.4 (live), limit not identified",
    ]
    assert list(events(now, StudyStatus.read(store))) == []
    write_rows(store, "runs", RELU, [state_row("failed", reason="no [GPU]")], stream="controller")
    assert list(events(now, StudyStatus.read(store))) == [f"{RELU}: failed: no [GPU]"]


def end(store: StudyStore, state: str = "done") -> None:
    for run in (RELU, SILU):
        write_rows(store, "runs", run, [state_row(state, 64)], stream="controller")


def test_watch_follows_until_all_runs_are_done(store):
    def work() -> None:
        train(store, steps=4)
        end(store)

    thread = threading.Thread(target=work)
    thread.start()
    shown = invoke(store, "watch", "tiny", "--interval", "0.1")
    thread.join()
    assert shown.exit_code == 0
    lines = shown.stdout.splitlines()
    assert lines[0].startswith(f"study {store.study_id}")
    assert lines[-2:] == [f"{RELU}: done", f"{SILU}: done"] or f"{SILU}: done" in lines
    assert len(lines) == len(set(lines))


def test_watch_says_by_its_exit_code_that_runs_failed(store):
    end(store, "failed")
    shown = invoke(store, "watch", "tiny")
    assert getattr(shown.exception, "exit_code", None) == 4


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_live_view_ends_with_the_newest_state(store):
    calls = 0

    def over() -> bool:
        nonlocal calls
        calls += 1
        if calls == 3:
            end(store)
        return calls >= 3

    output = Terminal()
    started = time.monotonic()
    live_view(store, over, file=output, interval_seconds=30)
    assert time.monotonic() - started < 15  # it does not sleep on when all is over
    assert output.getvalue().index("2 planned") < output.getvalue().index("2 done")


def test_on_a_terminal_watch_keeps_a_table_up_to_date(store):
    end(store)
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "sparsing", "watch", str(store.path)]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "160", "LINES": "30"}
    done = subprocess.run(
        command, stdout=follower, stderr=subprocess.PIPE, env=environment, timeout=60, check=False
    )
    text = os.read(leader, 100_000).decode()
    os.close(leader), os.close(follower)
    assert done.returncode == 0, done.stderr
    assert "tokens/s" in text
    assert "2 done" in text
    assert "\x1b[" in text


def test_where_not_all_runs_have_room_those_at_work_are_shown(tmp_path):
    seeds = {"axes": {"scale": [{"d_h": 8, "layers": 2}], "seed": list(range(20))}}
    store = tiny_store(tmp_path, **seeds)
    runs = [run.id for run in plan_runs(store.study)]
    write_rows(store, "runs", runs[7], [state_row("failed", reason="disk full")])
    write_rows(store, "runs", runs[15], [state_row("training")])
    text = status_table(StudyStatus.read(store), max_rows=3).text()
    assert runs[15] in text
    assert f"{runs[7]}: disk full" in text
    assert runs[0] in text
    assert f"{runs[1]} " not in text
    assert "and 17 more runs" in text


def test_looks_are_quick_with_many_runs(tmp_path):
    axes = {"scale": [{"d_h": 8, "layers": 2}], "seed": list(range(100))}
    store = tiny_store(tmp_path, axes=axes)
    for run in plan_runs(store.study):
        write_rows(store, "runs", run.id, [state_row("training")])
        write_rows(store, "steps", run.id, [step_row(1)])
    started = time.monotonic()
    assert StudyStatus.read(store).states["training"] == 100
    assert time.monotonic() - started < 5


def test_a_study_that_nobody_works_on_says_so_and_what_to_type(store):
    train(store)
    lease = acquire(study_cell(store.path))
    assert "sparsing resume" not in invoke(store, "status", "tiny").output
    assert json.loads(invoke(store, "status", "tiny", "--json").output)["controller"]["at_work"]
    attended = StudyStatus.read(store)
    lease.release()
    assert f"sparsing resume {store.study_id}" in invoke(store, "status", "tiny").output
    told = json.loads(invoke(store, "status", "tiny", "--json").output)["controller"]
    assert (told["at_work"], told["token"]) == (False, 1)
    alone = StudyStatus.read(store)
    assert list(events(attended, alone)) == [unattended_text(alone)]
    assert list(events(alone, alone)) == []


def test_a_study_at_its_end_needs_nobody(store):
    acquire(study_cell(store.path)).release()
    for run in (RELU, SILU):
        write_rows(store, "runs", run, [state_row("done")], stream="controller")
    assert not StudyStatus.read(store).unattended
