from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from stores import sparsity_row, step_row, tiny_store, write_rows

from sparsing.study import export
from sparsing.study.commands.main import cli
from sparsing.study.errors import NotFoundError

RUN = "relu-d8x2-wd4-s0"


@pytest.fixture
def store(tmp_path):
    store = tiny_store(tmp_path / "store")
    write_rows(store, "steps", RUN, [step_row(step) for step in range(1, 6)])
    rows = [sparsity_row(4, 0.25), sparsity_row(4, 0.5, layer=0), sparsity_row(2, 0.5)]
    write_rows(store, "sparsity", RUN, rows, stream="live")
    return store


def run(store, folder, form):
    root = str(store.path.parent)
    arguments = ["export", "tiny", str(folder), "--to", form, "--store", root, "--json"]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    return json.loads(done.stdout)["values"]


def test_tensorboard_reads_the_curves(store, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert run(store, tmp_path / "tb", "tensorboard") == 5 * 4 + 2
    found = EventAccumulator(str(tmp_path / "tb" / RUN)).Reload()
    losses = found.Scalars("train/loss")
    assert [each.step for each in losses] == [1, 2, 3, 4, 5]
    assert losses[0].value == pytest.approx(2.5)
    ratios = found.Scalars("sparsity/live/cett_ppl")
    assert [(each.step, each.value) for each in ratios] == [(2, 0.5), (4, 0.25)]


@pytest.mark.parametrize("name", ["ml", "curves?lr=3", "50%20#a b;c&d", "sqlite:x@y"])
@pytest.mark.parametrize("form", ["tensorboard", "mlflow"])
def test_values_are_written_to_the_folder_that_was_named_and_nowhere_else(
    store, tmp_path, monkeypatch, name, form
):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    run(store, name, form)
    assert set(tmp_path.iterdir()) - before == {tmp_path / name}
    assert any((tmp_path / name).iterdir())


def test_mlflow_reads_the_curves(store, tmp_path):
    from mlflow.tracking import MlflowClient

    assert run(store, tmp_path / "ml", "mlflow") == 5 * 4 + 2
    client = MlflowClient(f"sqlite:///{tmp_path / 'ml' / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string=f"name = '{store.study_id}'")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == RUN
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert sorted(each.step for each in history) == [1, 2, 3, 4, 5]
    assert found.data.metrics["sparsity/live/cett_ppl"] == 0.25


def test_nothing_is_overwritten_and_what_is_missing_is_said(store, tmp_path, monkeypatch):
    with pytest.raises(Exception, match="not empty"):
        export.export_tensorboard(store, tmp_path)
    monkeypatch.setitem(export.NEEDED, "mlflow", ("no_such_package",))
    with pytest.raises(NotFoundError, match="pip install mlflow-skinny"):
        export.export_mlflow(store, tmp_path / "new")
