"""The measurer: a final value that depends on the checkpoints alone; what it keeps of them."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from pareto_study import save_model, study

from sparsing.actors.data.prepare import prepare
from sparsing.actors.measuring.measurer import Measurer
from sparsing.study.definition.model import Study
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.checkpoint_folders import complete_steps
from sparsing.study.store.study_store import StudyStore


def measured(root: Path, live: bool) -> tuple[list[float], list[int]]:
    """A study's final CETT values, and the steps of the checkpoints that it keeps."""
    changes = {
        "checkpoints": {"count": 4},
        "measurement": {"pareto": False, "stabilizing_checkpoints": 1},
        "resources": {"keep_checkpoints": "last"},
    }
    store = StudyStore.create(root, Study.model_validate(study().model_dump() | changes))
    (run,) = plan_runs(store.study)
    for step in run.checkpoint_steps:
        save_model(store, run.id, step)
    measurer = Measurer(str(store.path), str(prepare(store.study, root / "data").path))
    for step in run.checkpoint_steps if live else ():
        measurer.measure_live(run, step, attempt=1)
    measurer.measure_final(run, attempt=1)
    columns = ["activation_ratio_low", "activation_ratio", "activation_ratio_high"]
    low, ratio, high = (store.scan("sparsity").collect()[name].to_numpy() for name in columns)
    assert ((low >= 0) & (low <= ratio) & (ratio <= high) & (high <= 1)).all()
    final = store.scan("sparsity").filter(pl.col("stage") == "final").collect()
    return final["cett"].to_list(), complete_steps(store.path, run.id)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_the_final_value_is_the_same_whatever_was_measured_before(tmp_path: Path) -> None:
    alone, kept = measured(tmp_path / "alone", live=False)
    after, _ = measured(tmp_path / "after", live=True)
    assert after == alone
    assert len(set(alone)) == 1
    assert kept == [6, 8]
