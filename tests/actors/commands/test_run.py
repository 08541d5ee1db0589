"""Whole studies through the command line: embedded Ray, DeepSpeed shards, store, laws, report."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import polars as pl
import psutil
import pytest

from sparsing.study.definition.load import load_study
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.study_store import StudyStore

# Also on a busy machine, where Ray's workers, nice by default, would hardly get to work.
pytestmark = pytest.mark.timeout(1200)
PATIENCE_SECONDS = 500.0
ENVIRONMENT = os.environ | {"RAY_worker_niceness": "0"}

TINY = """
name: tiny
axes:
  activation: [relu, silu]
  scale: [{d_h: 16, layers: 2, d_f: 40, heads: 2}]
tokens: 160K
data:
  domains:
    code: {kind: python-stdlib, weight: 2}
    log: {kind: text, path: log}
  tokenizer: {kind: bytes}
  sequence_tokens: 64
  max_bytes: 400K
  validation: {tokens: 4096}
optimization: {batch_tokens: 512, warmup_tokens: 2048}
mup: {dim_model_base: 16}
checkpoints: {count: 4}
"""


@pytest.fixture(scope="module")
def definition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-domain study; its second domain is a folder of text with lines that all differ."""
    folder = tmp_path_factory.mktemp("definition")
    (folder / "log").mkdir()
    for part in range(40):
        lines = [
            f"{i * 7919 % 10007} {'ok' if i % 3 else 'late'} {i**3 % 977}"
            for i in range(part * 500, part * 500 + 500)
        ]
        (folder / "log" / f"{part:02}.txt").write_text("\n".join(lines))
    path = folder / "tiny.yaml"
    path.write_text(TINY)
    return path


def command(definition: Path, store: Path, *options: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "sparsing",
        "run",
        str(definition),
        "--store",
        str(store),
        "--metrics-port",
        "0",
        *options,
    ]


def run(definition: Path, store: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(definition, store, *options),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env=ENVIRONMENT,
    )


@pytest.fixture(scope="module")
def undisturbed(definition: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("undisturbed")
    done = run(definition, store, "--json")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert Path(outcome["report"]).stat().st_size > 10_000
    assert outcome["failed"] == {}
    return store


def steps_of(store: Path) -> pl.DataFrame:
    return StudyStore.open(store, "tiny").scan("steps").sort("run", "step").collect()


def means_of(store: StudyStore, stage: str = "final") -> pl.DataFrame:
    """Each checkpoint's row for the mixture, mean over layers."""
    rows = store.scan("sparsity").filter(
        pl.col("domain").is_null(), pl.col("layer").is_null(), pl.col("stage") == stage
    )
    return rows.sort("run", "step").collect()


def test_every_step_is_there_once_and_learns(undisturbed: Path, definition: Path) -> None:
    steps = steps_of(undisturbed)
    for planned in plan_runs(load_study(str(definition))):
        mine = steps.filter(run=planned.id)
        assert mine["step"].to_list() == list(range(1, planned.steps + 1))
        assert mine["tokens"].to_list() == [s * 512 for s in mine["step"]]
        assert mine["loss"].tail(5).mean() < 0.8 * mine["loss"].head(5).mean()
        assert (mine["grad_norm"] > 0).all()


def test_an_ended_study_is_wholly_in_parquet(undisturbed: Path) -> None:
    store = StudyStore.open(undisturbed, "tiny")
    tables = store.path / "tables"
    assert not list(tables.rglob("*.log"))
    for table in ("steps", "sparsity", "fits", "runs"):
        by_glob = pl.read_parquet(tables / table / "*" / "*.parquet", hive_partitioning=False)
        assert by_glob.height == store.count_rows(table) > 0


def test_measuring_gives_the_loss_that_training_reported(undisturbed: Path) -> None:
    store = StudyStore.open(undisturbed, "tiny")
    reported = store.scan("checkpoints").select("run", "step", "domain", "validation_loss")
    measured = (
        store.scan("sparsity")
        .filter(pl.col("layer").is_null(), pl.col("stage") == "final")
        .select("run", "step", "domain", "dense_loss")
    )
    both = reported.join(measured, on=["run", "step", "domain"], nulls_equal=True).collect()
    assert len(both) == 2 * 4 * 3
    assert both["domain"].n_unique() == 3
    for row in both.iter_rows(named=True):
        assert row["dense_loss"] == pytest.approx(row["validation_loss"], rel=1e-5)


def test_sparsity_rows_agree_with_each_other(undisturbed: Path) -> None:
    store = StudyStore.open(undisturbed, "tiny")
    rows = store.scan("sparsity").filter(pl.col("stage") == "final").collect()
    means = means_of(store)
    assert len(means) == 8
    # One CETT for the whole run, and the mean rise over its checkpoints near the asked 1 %.
    assert means.group_by("run").agg(pl.col("cett").n_unique())["cett"].to_list() == [1, 1]
    assert means["activation_ratio"].is_between(0.001, 0.999).all()
    assert means["ppl_rise_percent"].mean() == pytest.approx(1.0, abs=1.0)
    layers = rows.filter(pl.col("domain").is_null(), pl.col("layer").is_not_null())
    mean_of_layers = layers.group_by("run", "step").agg(pl.col("activation_ratio").mean())
    joined = means.join(mean_of_layers, on=["run", "step"], suffix="_of_layers")
    for row in joined.iter_rows(named=True):
        assert row["activation_ratio"] == pytest.approx(row["activation_ratio_of_layers"])
    neurons = store.scan("neurons").filter(pl.col("stage") == "final").collect()
    frequency = neurons.with_columns(mean=pl.col("frequency").list.mean())
    same = layers.join(frequency.filter(pl.col("domain").is_null()), on=["run", "step", "layer"])
    assert len(same) == 2 * 4 * 2
    for row in same.iter_rows(named=True):
        assert row["mean"] == pytest.approx(row["activation_ratio"], rel=1e-5)
    counted = store.scan("vocabulary").filter(pl.col("stage") == "final").group_by("run", "step")
    tokens = counted.agg(pl.col("count").sum()).collect()["count"].unique().to_list()
    assert tokens == [means["measured_tokens"][0]]


def test_both_runs_are_fitted(undisturbed: Path) -> None:
    fits = StudyStore.open(undisturbed, "tiny").scan("fits").sort("written_at").collect()
    newest = fits.group_by("run").last()
    assert len(newest) == 2
    assert set(newest["stage"]) == {"final"}
    assert (newest["points"] >= 3).all()


def test_running_a_finished_study_again_trains_nothing(undisturbed: Path, definition: Path) -> None:
    before = steps_of(undisturbed)
    again = run(definition, undisturbed)
    assert again.returncode == 0, again.stderr
    assert steps_of(undisturbed).equals(before)
    states = StudyStore.open(undisturbed, "tiny").scan("runs").collect()
    assert states["attempt"].max() == 1


def wait_for_rows(store: Path, minimum: int, process: subprocess.Popen) -> None:
    """Until a run has so many steps in the store: the other is behind, and neither has ended."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if any(store.glob("*/study.yaml")):
            counts = steps_of(store).group_by("run").len()["len"].to_list()
            if max(counts, default=0) >= minimum:
                return
        time.sleep(0.1)
    raise AssertionError(f"no {minimum} steps within {PATIENCE_SECONDS:g} s")


def assert_same_study(found: Path, expected: Path) -> None:
    """Row by row the same steps, each once, and the same final measurements."""
    ours, theirs = steps_of(found), steps_of(expected)
    assert ours.select("run", "step", "tokens").equals(theirs.select("run", "step", "tokens"))
    for column in ("loss", "learning_rate", "grad_norm"):
        assert ours[column].to_list() == pytest.approx(theirs[column].to_list(), rel=1e-4)
    first, second = (means_of(StudyStore.open(store, "tiny")) for store in (found, expected))
    assert first.select("run", "step").equals(second.select("run", "step"))
    ratios = [frame["activation_ratio"].to_list() for frame in (first, second)]
    assert ratios[0] == pytest.approx(ratios[1], rel=0.02)


@pytest.fixture
def started(definition: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen, Path]]:
    """A study at work in a process group of its own."""
    process = subprocess.Popen(
        command(definition, tmp_path),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
    )
    yield process, tmp_path
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def test_killed_and_run_again_it_gives_the_same_rows(
    started: tuple[subprocess.Popen, Path], undisturbed: Path, definition: Path
) -> None:
    process, store = started
    wait_for_rows(store, 20, process)
    everything = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for child in everything:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(everything, timeout=30)
    again = run(definition, store)
    assert again.returncode == 0, again.stderr
    assert StudyStore.open(store, "tiny").scan("runs").collect()["attempt"].max() == 2
    assert_same_study(store, undisturbed)


def test_interrupted_it_says_how_to_go_on(
    started: tuple[subprocess.Popen, Path], definition: Path
) -> None:
    process, store = started
    wait_for_rows(store, 10, process)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130
    assert "the same command again goes on where it stopped" in output
    assert "Traceback" not in output


def test_a_lost_shard_is_replaced(
    started: tuple[subprocess.Popen, Path], undisturbed: Path
) -> None:
    process, store = started
    wait_for_rows(store, 20, process)
    victims = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if any("ShardActor" in part for part in child.cmdline())
    ]
    assert victims
    victims[0].kill()
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, output
    states = StudyStore.open(store, "tiny").scan("runs").collect()
    assert states["attempt"].max() == 2
    assert states["failure_kind"].drop_nulls().to_list() == ["shard_lost"]
    assert_same_study(store, undisturbed)


def test_a_gang_of_two_gives_the_same_rows(
    definition: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Resources are no part of a study's identity: the same study on two shards a run."""
    pair = definition.with_name("pair.yaml")
    pair.write_text(TINY + "resources: {shards: 2, parallel_runs: 1, cpus_per_shard: 0.5}\n")
    done = run(pair, tmp_path)
    assert done.returncode == 0, done.stderr
    states = StudyStore.open(tmp_path, "tiny").scan("runs").collect()
    assert set(states["world_size"]) == {2}, states
    pair_steps, alone = steps_of(tmp_path), steps_of(undisturbed)
    assert pair_steps.select("run", "step", "tokens").equals(alone.select("run", "step", "tokens"))
    # Two shards add gradients in another order, and training amplifies rounding as it goes on.
    for steps, tolerance in ((90, 1e-4), (10**6, 2e-2)):
        ours, theirs = (frame.filter(pl.col("step") <= steps) for frame in (pair_steps, alone))
        assert ours["loss"].to_list() == pytest.approx(theirs["loss"].to_list(), rel=tolerance)


def test_more_shards_than_cpus_is_said_before_anything_starts(
    definition: Path, tmp_path: Path
) -> None:
    greedy = definition.with_name("greedy.yaml")
    shards = 8 * (os.cpu_count() or 1)
    greedy.write_text(TINY + f"resources: {{shards: {shards}}}\n")
    done = run(greedy, tmp_path)
    assert done.returncode == 2
    assert "resources.shards" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("*/tables/steps/*"))


def test_a_metrics_port_in_use_is_said_before_anything_starts(
    definition: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(definition, tmp_path, "--metrics-port", port)
    assert done.returncode == 2, done.stderr
    assert f"nothing can be served at 127.0.0.1:{port}" in done.stderr
    assert not list(tmp_path.glob("*/tables/steps/*"))


@pytest.mark.slow
@pytest.mark.timeout(1800)  # on a busy machine
def test_quickstart_relu_gets_sparser_and_silu_denser(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sparsing", "run", "quickstart", "--store", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    means = means_of(StudyStore.open(tmp_path, "quickstart"))
    rank = pl.corr("tokens", "activation_ratio", method="spearman")
    last = pl.col("activation_ratio", "dense_loss").last()
    by_run = {
        row["run"]: row
        for row in means.group_by("run").agg(rank.alias("rho"), last).iter_rows(named=True)
    }
    assert len(by_run) == 4
    for name, row in by_run.items():
        assert row["rho"] < -0.8 if name.startswith("relu") else row["rho"] > 0.8, by_run
    for seed in (0, 1):
        relu, silu = by_run[f"relu-d32x4-wd8-s{seed}"], by_run[f"silu-d32x4-wd8-s{seed}"]
        assert relu["activation_ratio"] < 0.5 * silu["activation_ratio"]
        assert abs(relu["dense_loss"] - silu["dense_loss"]) < 0.1
