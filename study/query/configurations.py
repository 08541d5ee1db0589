"""The table `configurations`: a row for each run, its configuration and newest values as columns.

It is computed from the definition and the store when it is asked for, and stored nowhere. Joined to
another table by `run` it adds no rows: there is one row for each run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

from sparsing.study.definition.model import Study
from sparsing.study.plan.runs import plan_runs
from sparsing.study.query.notes import newest_notes
from sparsing.study.status.study_status import RunStatus, StudyStatus
from sparsing.study.store.study_store import StudyStore
from sparsing.study.store.training_data import read_record

NAME = "configurations"
ABOUT = "One row per run: what it is, and its newest values. Computed when asked; no file."

Columns = dict[str, tuple[pl.DataType | type[pl.DataType], str]]
_TEXT, _INT, _FLOAT = pl.String, pl.Int64, pl.Float64
CONFIGURATION: Columns = {
    "run": (_TEXT, "id of the run, `relu-0.1B-wd48-s0`"),
    "activation": (_TEXT, "activation function of its FFNs: relu, silu, relu2 or gelu"),
    "scale": (_TEXT, "scale as written in the definition, or `d32x4` for an explicit shape"),
    "seed": (_INT, "seed of initialisation and data order"),
    "parameters": (_INT, "non-embedding parameters"),
    "d_h": (_INT, "hidden size"),
    "layers": (_INT, "number of layers"),
    "d_f": (_INT, "intermediate size of the FFNs: neurons of a layer"),
    "heads": (_INT, "attention heads"),
    "width_depth_ratio": (_FLOAT, "d_h / layers"),
    "tokens_planned": (_INT, "training tokens of the whole run"),
    "steps_planned": (_INT, "optimizer steps of the whole run"),
    "batch_tokens": (_INT, "tokens of the global batch"),
    "warmup_tokens": (_INT, "tokens of the learning rate's warm-up"),
    "decay_tokens": (_INT, "tokens of the learning rate's decay, at the end"),
    "peak_learning_rate": (_FLOAT, "learning rate of the stable stage"),
    "checkpoints_planned": (_INT, "checkpoints that are saved and measured"),
    "data": (_TEXT, "JSON {domain: weight} of the training data"),
}
NEWEST: Columns = {
    "state": (_TEXT, "planned, waiting, training, measuring, done, failed or stopped"),
    "reason": (_TEXT, "why it is in this state; null where it is plain"),
    "attempt": (_INT, "newest attempt; 0 before the first"),
    "device": (_TEXT, "what it trains on; null before it trains"),
    "tokens": (_INT, "training tokens seen"),
    "loss": (_FLOAT, "training loss of the newest step, nats per token; null before it"),
    "validation_loss": (_FLOAT, "dense, of the newest checkpoint, mixture; null before it"),
    "tokens_per_second": (_FLOAT, "while it trains; null otherwise"),
    "checkpoints": (_INT, "complete checkpoints"),
    "stage": (_TEXT, "live or final, as in sparsity; null before the first measurement"),
    "measured_tokens": (_INT, "training tokens of the newest measured checkpoint; null before it"),
    "activation_ratio": (_FLOAT, "of that checkpoint, mean over layers, mixture; null before it"),
    "law": (_TEXT, "law of the newest fit; null before the first"),
    "limit_activation_ratio": (_FLOAT, "its limit A0; null where it is not identified"),
    "limit_low": (_FLOAT, "end of the limit's 95 % interval; null = open"),
    "limit_high": (_FLOAT, "end of the limit's 95 % interval; null = open"),
    "epochs": (_TEXT, "JSON {domain: passes of the whole run over its text}; null before its data"),
    "note": (_TEXT, "newest note of `sparsing note`; null without one"),
    "tags": (pl.List(pl.String), "all its tags; empty without one"),
}
COLUMNS: Columns = CONFIGURATION | NEWEST
SCHEMA = {name: dtype for name, (dtype, _) in COLUMNS.items()}


def configurations(store: StudyStore) -> pl.DataFrame:
    """One row for each run of a study, in the order of the plan; columns are COLUMNS."""
    losses, said, record = _validation_losses(store), newest_notes(store), read_record(store.place)
    configured = {row["run"]: row for row in configured_runs(store.study)}
    rows = [
        configured[each.run.id]
        | _newest(each, losses.get(each.run.id))
        | {"epochs": json.dumps(_rounded(record.epochs(each.run.tokens))) if record else None}
        | said.get(each.run.id, {"note": None, "tags": []})
        for each in StudyStatus.read(store).runs
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


def _rounded(epochs: dict[str, float]) -> dict[str, float]:
    """With four digits."""
    return {domain: float(f"{value:.4g}") for domain, value in epochs.items()}


def lazy_configurations(store: StudyStore) -> pl.LazyFrame:
    """The same, computed when it is collected."""

    def batches(
        columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _: int | None
    ) -> Iterator[pl.DataFrame]:
        frame = configurations(store).lazy()
        if predicate is not None:
            frame = frame.filter(predicate)
        if columns is not None:
            frame = frame.select(columns)
        yield (frame if n_rows is None else frame.head(n_rows)).collect()

    return register_io_source(batches, schema=SCHEMA, is_pure=True)


def configured_runs(study: Study) -> list[dict[str, Any]]:
    """The configuration of each run of a definition: the columns CONFIGURATION."""
    data = json.dumps({name: source.weight for name, source in study.data.domains.items()})
    return [
        {
            "run": run.id,
            "activation": run.activation,
            "scale": run.scale,
            "seed": run.seed,
            "parameters": run.parameters,
            "d_h": run.d_h,
            "layers": run.layers,
            "d_f": run.d_f,
            "heads": run.heads,
            "width_depth_ratio": run.width_depth_ratio,
            "tokens_planned": run.tokens,
            "steps_planned": run.steps,
            "batch_tokens": run.batch_tokens,
            "warmup_tokens": run.warmup_steps * run.batch_tokens,
            "decay_tokens": run.decay_steps * run.batch_tokens,
            "peak_learning_rate": study.optimization.peak_learning_rate,
            "checkpoints_planned": len(run.checkpoint_steps),
            "data": data,
        }
        for run in plan_runs(study)
    ]


def _newest(each: RunStatus, validation_loss: float | None) -> dict[str, Any]:
    return {
        "state": each.state,
        "reason": each.reason,
        "attempt": each.attempt,
        "device": each.device,
        "tokens": each.tokens,
        "loss": each.loss,
        "validation_loss": validation_loss,
        "tokens_per_second": each.tokens_per_second,
        "checkpoints": each.checkpoints,
        "stage": each.stage,
        "measured_tokens": each.measured_tokens,
        "activation_ratio": each.activation_ratio,
        "law": each.law,
        "limit_activation_ratio": each.limit,
        "limit_low": each.limit_low,
        "limit_high": each.limit_high,
    }


def _validation_losses(store: StudyStore) -> Mapping[str, float]:
    """Of each run: the dense validation loss of its newest checkpoint."""
    rows = (
        store.scan("checkpoints")
        .filter(pl.col("domain").is_null(), pl.col("validation_loss").is_not_null())
        .sort("run", "tokens")
        .group_by("run")
        .agg(pl.col("validation_loss").last())
        .collect()
    )
    return dict(rows.iter_rows())
