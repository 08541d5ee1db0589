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

NOT_OF_THE_NUMBERS = ["written_at", "measure_seconds"]


def measured(root: Path, live: str) -> tuple[dict[str, pl.DataFrame], list[int]]:
    """All rows of a study's measurements, and the steps of the checkpoints that it keeps.

    Args:
        live: `none`; `all`; `disturbed`: as `all`, each by another measurer, which knows nothing.
    """
    changes = {
        "checkpoints": {"count": 4},
        "measurement": {"pareto": False, "stabilizing_checkpoints": 1},
        "resources": {"keep_checkpoints": "last"},
    }
    store = StudyStore.create(root, Study.model_validate(study().model_dump() | changes))
    (run,) = plan_runs(store.study)
    for step in run.checkpoint_steps:
        save_model(store, run.id, step)
    data = str(prepare(store.study, root / "data").path)
    measurer = Measurer(str(store.path), data)
    for step in run.checkpoint_steps if live != "none" else ():
        if live == "disturbed":
            measurer = Measurer(str(store.path), data)
        measurer.measure_live(run, step, attempt=1)
    measurer.measure_final(run, attempt=1)
    columns = ["activation_ratio_low", "activation_ratio", "activation_ratio_high"]
    low, ratio, high = (store.scan("sparsity").collect()[name].to_numpy() for name in columns)
    assert ((low >= 0) & (low <= ratio) & (ratio <= high) & (high <= 1)).all()
    tables = {
        name: store.scan(name)
        .collect()
        .drop(NOT_OF_THE_NUMBERS, strict=False)
        .sort("stage", "step", *ORDER[name])
        for name in ORDER
    }
    return tables, complete_steps(store.path, run.id)


ORDER = {
    "sparsity": ["domain", "layer"],
    "neurons": ["domain", "layer"],
    "vocabulary": ["token_id"],
}


def final(tables: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    return {name: frame.filter(pl.col("stage") == "final") for name, frame in tables.items()}


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_rows_are_the_same_to_the_bit_whatever_was_measured_before(tmp_path: Path) -> None:
    alone, kept = measured(tmp_path / "alone", live="none")
    after, _ = measured(tmp_path / "after", live="all")
    disturbed, _ = measured(tmp_path / "disturbed", live="disturbed")
    for name in ORDER:
        assert len(final(after)[name]) > 0
        assert final(after)[name].equals(alone[name])
        assert disturbed[name].equals(after[name])
    assert alone["sparsity"]["cett"].n_unique() == 1
    assert kept == [6, 8]
