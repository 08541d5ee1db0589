from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain
from stores import (
    SetClock,
    checkpoint_row,
    fit_row,
    sparsity_row,
    state_row,
    step_row,
    tiny_store,
    tiny_study,
    write_rows,
)

from sparsing.study.plan.runs import plan_runs, training_flops
from sparsing.study.status.exporter import StoreCollector, StudyMetrics
from sparsing.study.status.failure import NOTICES, Kind
from sparsing.study.status.run_metrics import LawPoint
from sparsing.study.status.study_status import StatusReader
from sparsing.study.store.control.lease import acquire, study_cell
from sparsing.study.store.study_store import StudyStore

RELU, SILU = (run.id for run in plan_runs(tiny_study()))
STUDY = tiny_study().study_id
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    return tiny_store(tmp_path)


def metrics_of(store: StudyStore, lag_seconds: float | None = 0.0) -> StudyMetrics:
    law = LawPoint(fitted=0.41, forecast=0.45)
    return StudyMetrics(store, StatusReader(store).read, lambda: lag_seconds, lambda _: {RELU: law})


def registry_of(*studies: StudyMetrics) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(StoreCollector(lambda: studies))
    return registry


def scrape(registry: CollectorRegistry) -> Samples:
    """All samples, by name and labels."""
    encode, content_type = choose_encoder("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    families = list(openmetrics(encode(registry).decode()))
    samples = [sample for family in families for sample in family.samples]
    found = {(each.name, frozenset(each.labels.items())): each.value for each in samples}
    assert len(found) == len(samples)
    return found


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"sparsing_{name}", frozenset({"study": STUDY, **labels}.items())))


def fill(store: StudyStore) -> None:
    """One run in training, measured twice and fitted; the other planned."""
    write_rows(store, "runs", RELU, [state_row("training")])
    write_rows(store, "steps", RELU, [step_row(step) for step in range(1, 33)])
    write_rows(store, "checkpoints", RELU, [checkpoint_row(32)])
    for step, ratio in ((16, 0.5), (32, 0.4)):
        rows = [sparsity_row(step, ratio), sparsity_row(step, ratio, layer=0)]
        write_rows(store, "sparsity", RELU, rows, stream="live")
    write_rows(
        store,
        "fits",
        RELU,
        [fit_row(32, limit_activation_ratio=0.06, limit_high=0.07, verdict="undecided")],
    )


def test_an_empty_store_has_states_and_no_values(store):
    samples = scrape(registry_of(metrics_of(store)))
    assert value(samples, "runs", state="planned") == 2
    assert value(samples, "runs", state="failed") == 0
    assert value(samples, "run_tokens_total", run=RELU) == 0
    assert value(samples, "store_rows_total", table="steps") == 0
    assert value(samples, "fit_lag_seconds") == 0
    assert value(samples, "run_loss", run=RELU) is None
    assert value(samples, "run_state", run=RELU, state="planned") == 1
    assert value(samples, "run_state_since_timestamp_seconds", run=RELU) is None
    kinds = set(Kind) - NOTICES
    assert [value(samples, "failures_total", kind=kind) for kind in kinds] == [0] * len(kinds)
    assert 0 < value(samples, "store_free_bytes") < value(samples, "store_size_bytes")


def test_what_operators_ask_of_a_run(store):
    device = "NVIDIA A800-SXM4-80GB, bfloat16, ZeRO 1"
    began = datetime.now(UTC) - timedelta(seconds=90)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sparsing.study.store.rows.datetime", SetClock)
        patched.setattr(SetClock, "time", began - timedelta(seconds=30))
        write_rows(store, "runs", RELU, [state_row("waiting")])
        patched.setattr(SetClock, "time", began)
        write_rows(store, "runs", RELU, [state_row("training", device=device, world_size=4)])
    write_rows(store, "steps", RELU, [step_row(9, memory_bytes=5 * 2**30, tokens_per_second=1e8)])
    write_rows(store, "checkpoints", RELU, [checkpoint_row(8)])
    registry = registry_of(metrics_of(store))
    samples = scrape(registry)
    assert value(samples, "run_state", run=RELU, state="training") == 1
    assert value(samples, "run_state", run=RELU, state="planned") is None
    assert value(samples, "run_state_since_timestamp_seconds", run=RELU) == began.timestamp()
    assert value(samples, "run_shards", run=RELU) == 4
    assert value(samples, "run_memory_bytes", run=RELU) == 5 * 2**30
    assert value(samples, "run_planned_tokens", run=RELU) == 1024
    assert 0 <= value(samples, "store_commit_seconds", run=RELU) < 60
    assert value(samples, "run_checkpoints_total", run=RELU) == 1
    assert 0 <= value(samples, "run_checkpoint_age_seconds", run=RELU) < 60
    assert 0 <= value(samples, "run_age_seconds", run=RELU) < 60
    assert value(samples, "placement_wait_seconds_sum") == 30
    assert value(samples, "placement_wait_seconds_bucket", le="10.0") == 0
    assert value(samples, "placement_wait_seconds_bucket", le="60.0") == 1
    run = plan_runs(tiny_study())[0]
    flops = training_flops(run, 32_000) / run.tokens
    assert value(samples, "run_mfu_ratio", run=RELU) == pytest.approx(1e8 * flops / 4 / 312e12)
    write_rows(store, "runs", RELU, [state_row("failed", failure_kind="not_finite")])
    after = scrape(registry)
    for name in ("run_mfu_ratio", "run_shards", "run_memory_bytes", "store_commit_seconds"):
        assert value(after, name, run=RELU) is None
    assert value(after, "failures_total", kind="not_finite") == 1


def test_an_unknown_device_has_no_mfu(store):
    write_rows(store, "runs", RELU, [state_row("training", device="CPU, float32, ZeRO 0")])
    write_rows(store, "steps", RELU, [step_row(9)])
    samples = scrape(registry_of(metrics_of(store)))
    assert value(samples, "run_tokens_per_second", run=RELU) == 100
    assert value(samples, "run_mfu_ratio", run=RELU) is None


def test_what_the_store_holds_is_exported(store):
    fill(store)
    samples = scrape(registry_of(metrics_of(store)))
    assert value(samples, "runs", state="training") == 1
    assert value(samples, "run_tokens_total", run=RELU) == 512
    assert value(samples, "run_restarts_total", run=RELU) == 0
    assert value(samples, "run_loss", run=RELU) == 5.0 / 33
    assert value(samples, "run_learning_rate", run=RELU) == 0.01
    assert value(samples, "run_tokens_per_second", run=RELU) == 100.0
    assert value(samples, "activation_ratio", run=RELU) == 0.4
    assert value(samples, "activation_ratio", run=SILU) is None
    assert value(samples, "run_measured_tokens", run=RELU) == 512
    assert value(samples, "law_activation_ratio", run=RELU) == 0.41
    assert value(samples, "law_forecast_activation_ratio", run=RELU) == 0.45
    assert value(samples, "law_activation_ratio", run=SILU) is None
    assert value(samples, "law_residual", run=RELU) == pytest.approx(1e-3)
    assert value(samples, "law_verdict", run=RELU, verdict="undecided") == 1
    assert value(samples, "law_verdict", run=RELU, verdict="holds") is None
    bounds = {b: value(samples, "law_limit_activation_ratio", run=RELU, bound=b) for b in BOUNDS}
    assert bounds == {"estimate": 0.06, "low": None, "high": 0.07}
    assert value(samples, "store_rows_total", table="steps") == 32
    assert value(samples, "store_rows_total", table="sparsity") == 4
    assert value(samples, "fit_seconds_count") == 1
    assert value(samples, "fit_seconds_sum") == pytest.approx(0.02)
    assert value(samples, "fit_seconds_bucket", le="0.005") == 0
    assert value(samples, "fit_seconds_bucket", le="0.1") == 1
    assert value(samples, "measure_seconds_count") == 2
    assert value(samples, "measure_seconds_bucket", le="+Inf") == 2


BOUNDS = ("estimate", "low", "high")


def test_counters_go_on_and_no_series_outlives_its_truth(store):
    fill(store)
    before = scrape(registry_of(metrics_of(store)))
    write_rows(store, "runs", RELU, [state_row("training")], attempt=2)
    write_rows(store, "steps", RELU, [step_row(33)], attempt=2)
    registry = registry_of(metrics_of(store))  # a new exporter
    after = scrape(registry)
    counters = [key for key in before if key[0].endswith("_total")]
    assert all(after[key] >= before[key] for key in counters)
    assert value(after, "run_restarts_total", run=RELU) == 1
    assert value(after, "run_tokens_total", run=RELU) == 528
    write_rows(store, "runs", RELU, [state_row("done", 64)], attempt=2, stream="controller")
    ended = scrape(registry)
    assert value(ended, "run_tokens_per_second", run=RELU) is None
    assert value(ended, "run_learning_rate", run=RELU) is None
    assert value(ended, "runs", state="training") == 0
    assert value(ended, "run_tokens_total", run=RELU) == 528


def test_one_exporter_sees_what_is_new(store):
    fill(store)
    registry = registry_of(metrics_of(store))
    assert value(scrape(registry), "measure_seconds_count") == 2
    rows = [sparsity_row(48, 0.3, measure_seconds=3.0), sparsity_row(48, 0.3, domain="code")]
    write_rows(store, "sparsity", RELU, rows, stream="live")
    write_rows(store, "sparsity", SILU, [sparsity_row(16, 0.2)], stream="live")
    samples = scrape(registry)
    assert value(samples, "measure_seconds_count") == 4
    assert value(samples, "measure_seconds_bucket", le="0.5") == 3
    assert value(samples, "measure_seconds_sum") == 4.5
    assert value(samples, "store_rows_total", table="sparsity") == 7


def test_the_lag_is_exported_once_it_is_known(store):
    assert value(scrape(registry_of(metrics_of(store, 1.5))), "fit_lag_seconds") == 1.5
    assert value(scrape(registry_of(metrics_of(store, None))), "fit_lag_seconds") is None


def test_several_studies_share_the_families(store, tmp_path):
    other = tiny_store(tmp_path, tokens=2048)
    fill(store)
    samples = scrape(registry_of(metrics_of(store), metrics_of(other)))
    assert value(samples, "run_tokens_total", run=RELU) == 512
    labels = frozenset({"study": other.study_id, "run": RELU}.items())
    assert samples["sparsing_run_tokens_total", labels] == 0
    assert value(samples, "fit_seconds_count") == 1
    assert samples["sparsing_fit_seconds_count", frozenset({"study": other.study_id}.items())] == 0


def test_old_scrapers_get_the_plain_format(store):
    encode, _ = choose_encoder("text/plain")
    families = {family.name for family in plain(encode(registry_of(metrics_of(store))).decode())}
    assert {"sparsing_runs", "sparsing_run_tokens", "sparsing_fit_seconds"} <= families


def test_who_works_on_a_study_is_told_by_its_lease(store: StudyStore) -> None:
    registry = registry_of(metrics_of(store))
    of_study = frozenset({("study", STUDY)})
    up, age = ("sparsing_controller_up", of_study), ("sparsing_lease_age_seconds", of_study)
    never = scrape(registry)
    assert never[up] == 0
    assert age not in never
    lease = acquire(study_cell(store.path))
    held = scrape(registry)
    assert held[up] == 1
    assert 0 <= held[age] < 15
    lease.release()
    released = scrape(registry)
    assert released[up] == 0
    assert age not in released


def test_notices_are_counted_by_run_and_are_no_failures(store):
    damaged = state_row("training", failure_kind="checkpoint_damaged", device="CPU")
    write_rows(store, "runs", RELU, [damaged], stream="controller")
    differs = state_row("training", failure_kind="replay_differs", reason="step 5")
    write_rows(store, "runs", RELU, [differs], stream="controller")
    samples = scrape(registry_of(metrics_of(store)))
    assert value(samples, "run_checkpoints_damaged_total", run=RELU) == 1
    assert value(samples, "run_replay_differences_total", run=RELU) == 1
    assert value(samples, "failures_total", kind="checkpoint_damaged") is None
    assert value(samples, "failures_total", kind="shard_lost") == 0
