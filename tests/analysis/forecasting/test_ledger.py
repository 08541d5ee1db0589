from __future__ import annotations

import polars as pl
from advice_stores import advised_store, measure
from stores import sparsity_row

from sparsing.analysis.forecasting.advice import advise
from sparsing.analysis.forecasting.ledger import keep_advice, read_ledger, register, score
from sparsing.analysis.forecasting.predictions import predictions_document
from sparsing.analysis.laws.published import PUBLISHED
from sparsing.analysis.laws.sparsity import PAPER_LAWS
from sparsing.analysis.refitting.refit import refit
from sparsing.study.plan.runs import plan_runs


def silu(billions):
    return PAPER_LAWS["silu"].value(billions, **PUBLISHED["0.4b_silu"])


def go_on(store, curve=silu, count: int = 40) -> None:
    """Measure the run up to `count` checkpoints, and fit it."""
    (run,) = plan_runs(store.study)
    steps = run.checkpoint_steps[:count]
    tokens = [step * run.batch_tokens for step in steps]
    rows = [
        sparsity_row(step, float(curve(at / 1e9)), tokens=at)
        for step, at in zip(steps[20:], tokens[20:], strict=True)
    ]
    with store.writer("sparsity", run=run.id, attempt=1) as writer:
        writer.append(1, rows)
    refit(store, code_version="test")


def test_verdicts_are_kept_once_and_scored_when_more_tokens_come(tmp_path) -> None:
    store = advised_store(tmp_path, lambda run: silu)
    advice = advise(store)
    assert advice.runs[0].verdict == "stop"
    assert keep_advice(store, advice) == 1
    assert keep_advice(store, advise(store)) == 0
    (entry,) = read_ledger(store)
    assert (entry["verdict"], entry["quantity"], entry["points"]) == ("stop", "limit", 20)
    assert score(store)[0].score == "open"
    go_on(store)
    assert score(store)[0].score == "held"


def test_forecasts_are_sealed_and_opened(tmp_path) -> None:
    store = advised_store(tmp_path, lambda run: silu)
    (run,) = plan_runs(store.study)
    for asked in (("1.2e11", None), ("9e10", None), (None, 0.38)):
        assert register(store, predictions_document(store, run.id, *asked)) == 1
    assert [each.score for each in score(store, "forecast")] == ["open"] * 3
    go_on(store)
    assert [each.score for each in score(store, "forecast")] == ["held"] * 3


def test_a_forecast_that_came_out_wrong_is_said_to_be(tmp_path) -> None:
    store = advised_store(tmp_path, lambda run: silu)
    (run,) = plan_runs(store.study)
    register(store, predictions_document(store, run.id, "1.2e11", None))
    go_on(store, lambda billions: silu(billions) - 0.05)
    assert score(store)[0].score == "missed"


def test_a_changed_entry_breaks_its_seal(tmp_path, monkeypatch) -> None:
    store = advised_store(tmp_path, lambda run: silu)
    (run,) = plan_runs(store.study)
    register(store, predictions_document(store, run.id, "1.2e11", None))
    rows = store.scan("verdicts").collect().with_columns(low=pl.col("low") - 0.1)
    monkeypatch.setattr(store, "scan", _instead(store.scan, rows))
    assert score(store)[0].score == "broken seal"


def _instead(scan, rows):
    def changed(table, *more, **how):
        return rows.lazy() if table == "verdicts" else scan(table, *more, **how)

    return changed


def test_an_extension_is_scored_by_when_it_was_known(tmp_path) -> None:
    store = advised_store(tmp_path, lambda run: None)
    (run,) = plan_runs(store.study)
    measure(store, run, silu, count=12, noise=8e-4, seed=1)
    refit(store, code_version="test")
    advice = advise(store, precision=0.007)
    assert advice.runs[0].verdict == "extend"
    assert keep_advice(store, advice) == 1
    (scored,) = score(store)
    assert (scored.score, scored.entry["quantity"]) == ("open", "limit")
