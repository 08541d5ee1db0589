"""The tables of the result store: one Arrow schema each, a version, and a docstring per column.

Every row says which run, attempt, step and code version wrote it. The column `run` is also the
name of the folder. Times are UTC; units are in the names; ratios are in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

TIME = pa.timestamp("us", tz="UTC")

_PROVENANCE: dict[str, tuple[pa.DataType, str]] = {
    "run": (pa.string(), "id of the run, `relu-0.1B-wd48-s0`"),
    "attempt": (pa.int32(), "attempt of the run that wrote the row, from 1"),
    "step": (pa.int64(), "optimizer steps done"),
    "code_version": (pa.string(), "version, and commit where known, of the code that wrote it"),
    "written_at": (TIME, "when the row was made"),
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table: its name, schema version, columns with their docstrings."""

    name: str
    version: int
    about: str
    columns: dict[str, tuple[pa.DataType, str]]
    optional: frozenset[str] = frozenset()
    """Columns that may be null; the writer refuses rows that lack another one."""

    @cached_property
    def schema(self) -> pa.Schema:
        """Arrow schema; docstrings are the fields' metadata, name and version the schema's."""
        fields = [
            pa.field(name, dtype, metadata={"about": about})
            for name, (dtype, about) in (_PROVENANCE | self.columns).items()
        ]
        return pa.schema(
            fields, metadata={"sparsing.table": self.name, "sparsing.version": str(self.version)}
        )


_COUNTED_IN = (
    pa.string(),
    "sparse_run: active neurons are those that contribute with all layers sparse at once, exact "
    "zeros never; null = a row of an earlier version, counted in the dense run",
)
_F64, _I64, _TEXT = pa.float64(), pa.int64(), pa.string()

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(
            name="runs",
            version=2,
            about="State changes of runs.",
            optional=frozenset(
                {"reason", "tokens", "world_size", "device", "failure_kind", "replaced_step"}
            ),
            columns={
                "state": (_TEXT, "planned, waiting, training, measuring, done, failed or stopped"),
                "reason": (_TEXT, "why, for people; null where it is plain"),
                "tokens": (_I64, "training tokens seen at the change"),
                "world_size": (pa.int32(), "shards of the run's gang"),
                "device": (_TEXT, "what it trains on, on which path; null but in state training"),
                "failure_kind": (
                    _TEXT,
                    "kind of failure that made the change: node_lost, shard_lost, hung, disk, "
                    "not_finite, out_of_memory ...; null for other changes",
                ),
                "replaced_step": (
                    _I64,
                    "step whose batch is replaced from here on; null for most changes",
                ),
            },
        ),
        Table(
            name="steps",
            version=2,
            about="One row for each optimizer step.",
            optional=frozenset({"grad_norm", "memory_bytes", "data_wait_seconds"}),
            columns={
                "tokens": (_I64, "training tokens seen after the step"),
                "loss": (_F64, "mean cross entropy of the global batch, nats per token"),
                "learning_rate": (_F64, "peak-group learning rate of the step"),
                "grad_norm": (_F64, "global gradient norm before clipping"),
                "tokens_per_second": (_F64, "of the whole gang"),
                "step_seconds": (_F64, "wall time of the step"),
                "memory_bytes": (_I64, "peak memory of shard 0: device memory, or resident on CPU"),
                "data_wait_seconds": (_F64, "of the step, what shard 0 waited for its sequences"),
            },
        ),
        Table(
            name="checkpoints",
            version=1,
            about="One row for each complete checkpoint and domain.",
            optional=frozenset({"bytes", "save_seconds", "domain", "validation_loss"}),
            columns={
                "tokens": (_I64, "training tokens seen"),
                "path": (_TEXT, "folder, relative to the study's"),
                "bytes": (_I64, "size of the folder"),
                "save_seconds": (_F64, "wall time to save it"),
                "domain": (_TEXT, "validation domain; null = the mixture"),
                "validation_loss": (_F64, "dense, on the reporting half, nats per token"),
            },
        ),
        Table(
            name="sparsity",
            version=3,
            about="Activation ratios: one row per checkpoint, stage, domain and layer.",
            optional=frozenset(
                {
                    "domain",
                    "layer",
                    "activation_ratio_low",
                    "activation_ratio_high",
                    "threshold",
                    "dense_loss",
                    "sparse_loss",
                    "ppl_rise_percent",
                    "measure_seconds",
                    "activation_ratio_dense_run",
                    "zero_output_ratio",
                    "counted_in",
                }
            ),
            columns={
                "tokens": (_I64, "training tokens seen"),
                "stage": (_TEXT, "live: CETT of the checkpoints so far; final: the run's one CETT"),
                "metric": (_TEXT, "cett_ppl"),
                "p_percent": (_F64, "asked rise of perplexity"),
                "cett": (_F64, "CETT value applied"),
                "domain": (_TEXT, "validation domain; null = the mixture, by weight"),
                "layer": (pa.int32(), "layer from 0; null = mean over layers"),
                "activation_ratio": (
                    _F64,
                    "active neurons / d_f, on the reporting half, in the sparse run",
                ),
                "activation_ratio_low": (
                    _F64,
                    "95 % interval; bootstrap over sequences of both halves",
                ),
                "activation_ratio_high": (_F64, "upper end of the interval"),
                "threshold": (_F64, "the layer's eps on ||n_i||; null for the mean over layers"),
                "dense_loss": (_F64, "nats per token on the reporting half; null for one layer"),
                "sparse_loss": (_F64, "with all layers sparse at once; null for one layer"),
                "ppl_rise_percent": (_F64, "really reached there; null for one layer"),
                "measured_tokens": (_I64, "tokens of the reporting half behind the row"),
                "measure_seconds": (_F64, "wall time of the whole measurement"),
                "activation_ratio_dense_run": (
                    _F64,
                    "the same thresholds counted in the dense run, for comparison",
                ),
                "zero_output_ratio": (
                    _F64,
                    "share of tokens whose FFN output is 0 in the dense run: their CETT is 0",
                ),
                "counted_in": _COUNTED_IN,
            },
        ),
        Table(
            name="neurons",
            version=2,
            about="Activation frequency of every neuron, one row per checkpoint, domain and layer.",
            optional=frozenset({"domain", "counted_in"}),
            columns={
                "tokens": (_I64, "training tokens seen"),
                "stage": (_TEXT, "live or final, as in sparsity"),
                "domain": (_TEXT, "validation domain; null = the mixture, by weight"),
                "layer": (pa.int32(), "layer from 0"),
                "frequency": (pa.list_(pa.float32()), "share of tokens that activate neuron i"),
                "dead_ratio": (_F64, "share of neurons active on fewer than 0.1 % of the tokens"),
                "counted_in": _COUNTED_IN,
            },
        ),
        Table(
            name="vocabulary",
            version=2,
            about="Activation ratio by vocabulary token, one row per checkpoint and token id.",
            optional=frozenset({"counted_in"}),
            columns={
                "tokens": (_I64, "training tokens seen"),
                "stage": (_TEXT, "live or final, as in sparsity"),
                "token_id": (pa.int32(), "id in the study's tokenizer"),
                "activation_ratio": (_F64, "mean over its occurrences and over layers"),
                "count": (_I64, "occurrences in the reporting half"),
                "counted_in": _COUNTED_IN,
            },
        ),
        Table(
            name="pareto",
            version=2,
            about="Perplexity against activation ratio: one row per way of choosing weak neurons, "
            "its parameter, and domain; of each run's last checkpoint before the decay stage.",
            optional=frozenset({"parameter", "domain", "activation_ratio_dense_run", "counted_in"}),
            columns={
                "tokens": (_I64, "training tokens seen"),
                "metric": (_TEXT, "the way: relu (straightforward), topk, fat or cett"),
                "parameter": (_F64, "k of topk, eps of fat, CETT value of cett; null for relu"),
                "domain": (_TEXT, "validation domain; null = the mixture, by weight"),
                "activation_ratio": (_F64, "active neurons / d_f, mean over layers"),
                "dense_loss": (_F64, "nats per token on the reporting half"),
                "sparse_loss": (_F64, "with all layers sparse at once"),
                "ppl_rise_percent": (_F64, "rise of perplexity of the sparse over the dense model"),
                "measured_tokens": (_I64, "tokens of the reporting half behind the row"),
                "activation_ratio_dense_run": (_F64, "counted in the dense run, for comparison"),
                "counted_in": _COUNTED_IN,
            },
        ),
        Table(
            name="preparation",
            version=1,
            about="How far the preparation of the data was, by domain; its rows have run `data`.",
            optional=frozenset({"eta_seconds"}),
            columns={
                "domain": (_TEXT, "domain of the mixture"),
                "bytes": (_I64, "of the source's files that are done"),
                "bytes_total": (_I64, "of all its files, as far as they are read"),
                "documents": (_I64, "documents done"),
                "tokens": (_I64, "tokens done"),
                "bytes_per_second": (_F64, "since the beginning, of this domain"),
                "eta_seconds": (_F64, "until all domains are done, at this speed"),
                "workers": (pa.int32(), "tasks at a time"),
            },
        ),
        Table(
            name="notes",
            version=1,
            about="What people noted of runs, with `sparsing note`.",
            optional=frozenset({"author"}),
            columns={
                "note": (_TEXT, "the text; empty where only tags were given"),
                "tags": (pa.list_(_TEXT), "words to find the run by"),
                "author": (_TEXT, "name of the user on the machine; null where it is not known"),
            },
        ),
        Table(
            name="fits",
            version=3,
            about="Every fit ever made, with what is needed to repeat it.",
            optional=frozenset(
                {
                    "limit_activation_ratio",
                    "limit_low",
                    "limit_high",
                    "mse",
                    "rows_weight",
                    "criteria",
                    "warnings",
                    "fit_seconds",
                    "verdict",
                    "verdict_reason",
                    "shared_error",
                }
            ),
            columns={
                "tokens": (_I64, "newest training tokens in the fit"),
                "stage": (_TEXT, "live or final, as in sparsity"),
                "law": (_TEXT, "relu or silu form"),
                "parameters": (_TEXT, "JSON {name: value}; tokens in billions"),
                "intervals": (_TEXT, "JSON {name: [low|null, high|null]}, 95 %"),
                "identified": (_TEXT, "JSON {name: bool}"),
                "limit_activation_ratio": (
                    _F64,
                    "by all laws that the points cannot refuse; null where it is not identified",
                ),
                "limit_low": (_F64, "null = open"),
                "limit_high": (_F64, "null = open"),
                "mse": (_F64, "mean squared error over the points fitted"),
                "criteria": (_TEXT, "JSON {law: {aicc, bic, holdout_mae}}"),
                "points": (_I64, "points fitted"),
                "dropped": (_I64, "points of warm-up and decay, not fitted"),
                "rows_tokens": (pa.list_(_I64), "training tokens of the points fitted"),
                "rows_activation_ratio": (pa.list_(_F64), "activation ratios of the points fitted"),
                "rows_weight": (
                    pa.list_(_F64),
                    "weights of the points, by their intervals, mean 1; null = all alike",
                ),
                "settings": (_TEXT, "JSON: loss, optimizer, start rule, bounds, seed"),
                "warnings": (_TEXT, "JSON list of what a reader must know"),
                "fit_seconds": (_F64, "wall time of the fit"),
                "verdict": (_TEXT, "on the law: holds, undecided, refused or cannot say"),
                "verdict_reason": (_TEXT, "why, for people"),
                "shared_error": (
                    _F64,
                    "relative standard error that all the points share: one text, one CETT value",
                ),
            },
        ),
        Table(
            name="verdicts",
            version=1,
            about="What was said of a run, sealed when it was said; scored when more tokens come.",
            optional=frozenset(
                {
                    "at_tokens",
                    "at_ratio",
                    "precision",
                    "absolute",
                    "value",
                    "low",
                    "high",
                    "to_tokens_low",
                    "to_tokens_high",
                    "law",
                    "law_verdict",
                }
            ),
            columns={
                "kind": (_TEXT, "advice (of `advise`) or forecast (of `predict --register`)"),
                "quantity": (_TEXT, "limit, ratio (at at_tokens) or tokens (to at_ratio)"),
                "at_tokens": (_F64, "training tokens at which the ratio is told"),
                "at_ratio": (_F64, "activation ratio to which the tokens are told"),
                "precision": (_F64, "wished half width; null for forecasts"),
                "absolute": (pa.bool_(), "whether precision is in the quantity's own unit"),
                "verdict": (_TEXT, "stop, done, extend, cannot say; predicted, reached, never"),
                "value": (_F64, "what was told; null where nothing was"),
                "low": (_F64, "of its interval; null = open"),
                "high": (_F64, "of its interval; null = open"),
                "level": (_F64, "of the interval"),
                "to_tokens_low": (_F64, "of an extension: tokens at which it is known, least"),
                "to_tokens_high": (_F64, "and most; null = open"),
                "law": (_TEXT, "the run's own law"),
                "law_verdict": (_TEXT, "on that law, by then"),
                "known_tokens": (_I64, "training tokens of the newest point known"),
                "points": (_I64, "points known"),
                "digest": (_TEXT, "SHA-256 over all this and the points known"),
            },
        ),
    )
}
