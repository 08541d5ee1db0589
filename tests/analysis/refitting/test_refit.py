from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest

from sparsing.analysis.refitting import fit_rows as fit_rows_module
from sparsing.analysis.refitting.fit_rows import Job, fit_again, fit_rows
from sparsing.analysis.refitting.newest import newest_fits, read_curves
from sparsing.analysis.refitting.refit import Refitter, refit
from sparsing.study.definition.model import Study
from sparsing.study.errors import SparsingError
from sparsing.study.plan.runs import Run, plan_runs
from sparsing.study.store.study_store import StudyStore

TOKENS = 1_048_576


@pytest.fixture
def store(tmp_path) -> StudyStore:
    study = Study.model_validate(
        {
            "name": "tiny",
            "axes": {
                "activation": ["relu", "silu"],
                "scale": [{"d_h": 32, "layers": 2, "heads": 2}],
            },
            "tokens": TOKENS,
            "data": {"domains": {"code": {"kind": "python-stdlib"}}, "sequence_tokens": 64},
            "optimization": {"batch_tokens": 1024, "warmup_tokens": 65536},
        }
    )
    return StudyStore.create(tmp_path, study)


def ratio(run: Run, tokens: float) -> float:
    share = (tokens / TOKENS) ** -0.5
    noise = 1e-4 * np.sin(tokens)
    return float(0.1 + 0.02 * share + noise if run.activation == "relu" else 0.5 - 0.05 * share)


def measure(store: StudyStore, run: Run, steps: list[int], stage: str = "live", **more) -> None:
    with store.writer("sparsity", run=run.id, attempt=1, stream=f"{stage}") as writer:
        for step in steps:
            tokens = step * run.batch_tokens
            whole = {
                "step": step,
                "tokens": tokens,
                "stage": stage,
                "metric": "cett_ppl",
                "p_percent": 1.0,
                "cett": 0.2,
                "domain": None,
                "layer": None,
                "activation_ratio": ratio(run, tokens),
                "threshold": None,
                "dense_loss": 2.0,
                "sparse_loss": 2.01,
                "ppl_rise_percent": 1.0,
                "measured_tokens": 1000,
                "measure_seconds": 0.1,
            }
            layer = {"layer": 0, "threshold": 0.1, "activation_ratio": 0.9}
            nothing = {"dense_loss": None, "sparse_loss": None, "ppl_rise_percent": None}
            rows = [whole | more, whole | {"domain": "code"}, whole | layer | nothing]
            writer.append(writer.next_seq, rows)


def test_refit_only_what_changed(store) -> None:
    relu, silu = plan_runs(store.study)
    assert refit(store, code_version="test") == 0
    measure(store, relu, list(range(52, 800, 52)))
    assert refit(store, code_version="test") == 1
    assert refit(store, code_version="test") == 0
    measure(store, silu, list(range(52, 500, 52)))
    assert refit(store, code_version="test") == 1
    measure(store, relu, list(range(800, 1025, 52)))
    assert refit(store, code_version="test") == 1
    rows = store.scan("fits").collect()
    assert rows["run"].to_list().count(relu.id) == 2
    newest = newest_fits(store)
    assert newest["run"].to_list() == [relu.id, silu.id]
    assert newest["law"].to_list() == ["relu", "silu"]


def test_warmup_is_not_fitted_and_the_row_repeats_the_fit(store) -> None:
    relu, _ = plan_runs(store.study)
    measure(store, relu, list(range(32, 1025, 32)))
    refit(store, code_version="test")
    (row,) = newest_fits(store).to_dicts()
    assert row["dropped"] == 2
    assert min(row["rows_tokens"]) > 65536
    assert row["points"] == len(row["rows_tokens"]) == 30
    assert row["rows_activation_ratio"] == [ratio(relu, t) for t in row["rows_tokens"]]
    assert set(json.loads(row["parameters"])) == {"alpha", "b", "c", "A0"}
    settings = json.loads(row["settings"])
    assert settings["code_version"] == "test"
    assert settings["loss"] == "least_squares"


def interval(run: Run, step: int, half_width: float) -> dict[str, float]:
    middle = ratio(run, step * run.batch_tokens)
    return {
        "activation_ratio_low": middle - half_width,
        "activation_ratio_high": middle + half_width,
    }


def test_points_are_weighted_by_their_intervals(store) -> None:
    relu, silu = plan_runs(store.study)
    steps = list(range(100, 1000, 50))
    widths = [0.004 if step < 500 else 0.002 for step in steps]
    widths[-1] = 1e-9  # by chance; counts as a third of the median
    for step, width in zip(steps, widths, strict=True):
        measure(store, relu, [step], **interval(relu, step, width))
        # One interval is missing: all points alike.
        measure(store, silu, [step], **({} if step == 500 else interval(silu, step, width)))
    refit(store, code_version="test")
    weighted, alike = newest_fits(store).to_dicts()
    weights = np.array(weighted["rows_weight"])
    assert weights.mean() == pytest.approx(1)
    assert weights[-2] / weights[0] == pytest.approx(4)
    assert weights[-1] / weights[-2] == pytest.approx(9)
    assert alike["rows_weight"] is None
    for row in (weighted, alike):
        assert fit_again(row).parameters == json.loads(row["parameters"])
    plain = fit_again(weighted | {"rows_weight": None})
    assert plain.parameters != json.loads(weighted["parameters"])


def test_the_decay_stage_is_not_fitted(tmp_path, store) -> None:
    optimization = store.study.optimization.model_copy(update={"decay_tokens": 131_072})
    decaying = StudyStore.create(
        tmp_path, store.study.model_copy(update={"optimization": optimization})
    )
    relu, _ = plan_runs(decaying.study)
    steps = list(range(32, 1025, 32))
    measure(decaying, relu, steps)
    assert refit(decaying, code_version="test") == 1
    (row,) = newest_fits(decaying).to_dicts()
    assert max(row["rows_tokens"]) == TOKENS - 131_072  # the last step of the stable stage
    assert row["dropped"] == 2 + 4


def test_final_stage_once_it_is_complete(store) -> None:
    relu, _ = plan_runs(store.study)
    steps = list(range(104, 1025, 104))
    measure(store, relu, steps)
    measure(store, relu, steps[:-1], "final")
    assert read_curves(store)[relu.id].stage == "live"
    refit(store, code_version="test")
    measure(store, relu, steps[-1:], "final")
    assert read_curves(store)[relu.id].stage == "final"
    assert refit(store, code_version="test") == 1
    assert newest_fits(store)["stage"].to_list() == ["final"]


def test_one_or_no_point_is_no_curve_yet(store) -> None:
    relu, _ = plan_runs(store.study)
    measure(store, relu, [32])  # inside the warm-up
    assert refit(store, code_version="test") == 0
    measure(store, relu, [512], activation_ratio=float("nan"))
    measure(store, relu, [513])
    assert refit(store, code_version="test") == 0
    measure(store, relu, [514])
    assert refit(store, code_version="test") == 1
    (row,) = newest_fits(store).to_dicts()
    assert row["limit_activation_ratio"] is None
    assert not any(json.loads(row["identified"]).values())


def test_a_refitter_reads_only_what_is_new(store) -> None:
    relu, silu = plan_runs(store.study)
    refitter = Refitter(store, code_version="test")
    measure(store, relu, list(range(104, 1025, 104)))
    assert refitter.refit() == 1
    assert refitter.refit() == 0
    measure(store, silu, list(range(104, 500, 104)))
    assert refitter.refit() == 1
    measure(store, relu, [1000])
    assert refitter.refit() == 1
    assert refit(store, code_version="test") == 0
    assert len(store.scan("fits").collect()) == 3


def test_many_fits_on_all_cores_are_the_same_fits(store, monkeypatch) -> None:
    relu, silu = plan_runs(store.study)
    for run in (relu, silu):
        measure(store, run, list(range(104, 1025, 104)))
    curves = read_curves(store)
    jobs = [
        Job(curve=curves[run.id], law=run.activation, dropped=0, code_version="test")
        for run in (relu, silu)
    ]
    alone = [row for _, row in fit_rows(jobs)]
    monkeypatch.setattr("sparsing.analysis.refitting.fit_rows.PARALLEL_FROM", 1)
    together = [row for _, row in fit_rows(jobs)]
    for one, other in zip(alone, together, strict=True):
        assert one | {"fit_seconds": 0} == other | {"fit_seconds": 0}


def test_two_refitters_fit_each_state_of_a_curve_once(store) -> None:
    runs = plan_runs(store.study)
    refitters = [Refitter(store, code_version=name) for name in ("one", "other")]
    measured = threading.Event()

    def follow(refitter: Refitter) -> int:
        fits = 0
        while not measured.is_set():
            fits += refitter.refit()
        return fits + refitter.refit()

    with ThreadPoolExecutor(2) as pool:
        following = [pool.submit(follow, each) for each in refitters]
        for step in range(104, 1025, 104):
            for run in runs:
                measure(store, run, [step])
        measured.set()
        fits = [each.result(timeout=60) for each in following]
    rows = store.scan("fits").collect()
    states = rows.select("run", "law", "stage", pl.col("rows_tokens").cast(pl.List(pl.String)))
    assert rows.height == sum(fits)
    assert states.with_columns(pl.col("rows_tokens").list.join(" ")).is_unique().all()
    assert newest_fits(store)["points"].to_list() == [9, 9]
    assert not any(refitter.look() for refitter in refitters)


def test_a_refitter_waits_for_the_one_at_work_and_fits_nothing_again(store, monkeypatch) -> None:
    relu, _ = plan_runs(store.study)
    measure(store, relu, list(range(104, 1025, 104)))
    refitters = [Refitter(store, code_version=name) for name in ("one", "other")]
    both_looked, turns = threading.Barrier(2), []

    def append(refitter: Refitter, done: list) -> int:
        turns.append(refitter)
        return real_append(refitter, done)

    def look(refitter: Refitter) -> bool:
        waiting = real_look(refitter)
        if refitter not in looked:
            looked.append(refitter)
            both_looked.wait(timeout=30)
        return waiting

    looked: list[Refitter] = []
    real_append, real_look = Refitter._append, Refitter.look
    monkeypatch.setattr(Refitter, "_append", append)
    monkeypatch.setattr(Refitter, "look", look)
    with ThreadPoolExecutor(2) as pool:
        fits = list(pool.map(lambda refitter: refitter.refit(), refitters))
    assert sorted(fits) == [0, 1]
    assert len(turns) == 1


def test_the_lag_is_the_age_of_what_no_fit_has_seen(store) -> None:
    relu, _ = plan_runs(store.study)
    refitter = Refitter(store, code_version="test")
    assert refitter.lag_seconds() is None
    assert not refitter.look()
    assert refitter.lag_seconds() == 0
    measure(store, relu, [32])
    unseen = refitter.lag_seconds()
    assert unseen is not None
    assert 0 < unseen < 60
    assert not refitter.look()  # inside the warm-up, and alone: no fit would use it
    assert refitter.lag_seconds() == 0
    measure(store, relu, [104, 208])
    assert refitter.look()
    waiting = refitter.lag_seconds()
    assert waiting is not None
    assert 0 < waiting < 60
    refitter.refit()
    assert refitter.lag_seconds() == 0


def test_who_only_looks_sees_what_others_fitted(store) -> None:
    relu, _ = plan_runs(store.study)
    watching = Refitter(store, code_version="test")
    measure(store, relu, [104, 208])
    assert watching.look()
    assert watching.look()
    assert refit(store, code_version="test") == 1
    assert not watching.look()
    assert watching.lag_seconds() == 0


def test_a_stopped_refitter_leaves_the_rest_to_the_next(store) -> None:
    for run in plan_runs(store.study):
        measure(store, run, [104, 208])
    stopped = Refitter(store, code_version="test")
    stopped.stop()
    assert stopped.refit() == 1
    assert refit(store, code_version="test") == 1


def test_a_curve_that_cannot_be_fitted_keeps_no_other_from_its_fit(store, monkeypatch):
    bad, good = plan_runs(store.study)
    for run in (bad, good):
        measure(store, run, [100, 200, 400, 600, 800])
    real = fit_rows_module.fit_curve

    def broken(tokens, ratios, *, law, **rest):
        if law == "relu":
            raise FloatingPointError("overflow")
        return real(tokens, ratios, law=law, **rest)

    monkeypatch.setattr(fit_rows_module, "fit_curve", broken)
    refitter = Refitter(store, code_version="test")
    with pytest.raises(SparsingError, match=rf"{bad.id}: the fit of law relu failed.*overflow"):
        refitter.refit()
    assert newest_fits(store)["run"].to_list() == [good.id]
    monkeypatch.undo()
    assert refitter.refit() == 1
    assert newest_fits(store)["run"].to_list() == [bad.id, good.id]
