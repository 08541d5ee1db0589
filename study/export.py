"""A study's curves in the formats of other tools: TensorBoard event files, an MLflow store.

Each run of the study is a run there: losses and speeds of its steps, activation ratios of its
checkpoints. Tables as CSV, Parquet or Arrow files are `sparsing query`'s.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from sparsing.study.errors import NotFoundError, SparsingError
from sparsing.study.store.study_store import StudyStore

STEP_COLUMNS = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "step_seconds")
MLFLOW_FILE = "mlflow.db"
MLFLOW_METRICS = 1000
"""Most that MLflow takes at once."""
NEEDED = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}
PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow-skinny sqlalchemy alembic"}


@dataclass(frozen=True)
class Value:
    """One value of one curve."""

    name: str
    step: int
    time: datetime
    value: float


def values_of(store: StudyStore, run: str) -> Iterator[Value]:
    """`train/<column>` at each step, `sparsity/<stage>/<metric>` at each checkpoint of a run.

    Ratios are means over layers of the mixture; what is null has no value.
    """
    steps = store.scan("steps", run).sort("step").collect()
    for row in steps.iter_rows(named=True):
        for column in STEP_COLUMNS:
            if row[column] is not None:
                name = f"train/{column}"
                yield Value(name, row["step"], row["written_at"], row[column])
    means = store.scan("sparsity", run).filter(
        pl.col("layer").is_null(), pl.col("domain").is_null()
    )
    for row in means.sort("step").collect().iter_rows(named=True):
        name = f"sparsity/{row['stage']}/{row['metric']}"
        yield Value(name, row["step"], row["written_at"], row["activation_ratio"])


def export_tensorboard(store: StudyStore, folder: Path) -> int:
    """Write event files, `folder/<run>/events...`; the number of values. The folder is new."""
    _prepare("tensorboard", folder)
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    count = 0
    for run in store.runs_present("steps"):
        writer = EventFileWriter(str(folder / run))
        for each in values_of(store, run):
            summary = Summary(value=[Summary.Value(tag=each.name, simple_value=each.value)])
            wall_time = each.time.timestamp()
            writer.add_event(Event(wall_time=wall_time, step=each.step, summary=summary))
            count += 1
        writer.close()
    return count


def export_mlflow(store: StudyStore, folder: Path) -> int:
    """Write an MLflow store, `folder/mlflow.db`, with the study as experiment; number of values."""
    _prepare("mlflow", folder)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Made elsewhere and moved here: in a database's URL, `?` and `%` of the folder's name would be
    # read as something else, and another file be written.
    with tempfile.TemporaryDirectory(prefix="sparsing-mlflow-") as made:
        client = MlflowClient(f"sqlite:///{Path(made) / MLFLOW_FILE}")
        count = _log_runs(store, client, (folder / "artifacts").absolute().as_uri())
        shutil.move(Path(made) / MLFLOW_FILE, folder / MLFLOW_FILE)
    return count


def _log_runs(store: StudyStore, client: Any, artifacts: str) -> int:
    """Log each run of a study as a run of MLflow; number of values."""
    from mlflow.entities import Metric

    experiment = client.create_experiment(store.study_id, artifact_location=artifacts)
    count = 0
    for run in store.runs_present("steps"):
        there = client.create_run(experiment, run_name=run).info.run_id
        values = values_of(store, run)
        while some := list(islice(values, MLFLOW_METRICS)):
            metrics = [
                Metric(each.name, each.value, int(1000 * each.time.timestamp()), each.step)
                for each in some
            ]
            client.log_batch(there, metrics=metrics)
            count += len(metrics)
        client.set_terminated(there)
    return count


FORMATS = {"tensorboard": export_tensorboard, "mlflow": export_mlflow}


def _prepare(form: str, folder: Path) -> None:
    """See that the tool is installed and that nothing is overwritten."""
    missing = [name for name in NEEDED[form] if importlib.util.find_spec(name) is None]
    if missing:
        said = f"`pip install {PACKAGES[form]}`"
        raise NotFoundError(f"{', '.join(missing)} is not installed, which this needs: {said}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SparsingError(f"{folder} is there and not empty; give a folder that is not there yet")
    folder.mkdir(parents=True, exist_ok=True)
