"""The report's tables: runs, fits, measurements, failures, versions; cells are plain text."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import polars as pl
import psutil

from sparsing.analysis.figures.data import FittedLaw, ReportedRun, StudyData
from sparsing.analysis.forecasting.ledger import Scored, told
from sparsing.study.status.failure import NOTICES
from sparsing.study.status.run_history import changes_of_state
from sparsing.study.store.training_data import read_record
from sparsing.study.units import bytes_text, count_text
from sparsing.study.version import code_version

PACKAGES = ("torch", "ray", "deepspeed", "numpy", "scipy", "polars", "pyarrow", "matplotlib")


@dataclass(frozen=True)
class ReportTable:
    """Column heads, rows of cells, and what to say where there is no row."""

    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    empty: str


def percent(*ratios: float | None) -> str:
    """Ratios as percentages with three digits, `7.82 %` or `7.40–8.11 %`; or a dash."""
    known = [f"{100 * ratio:#.3g}".rstrip(".") for ratio in ratios if ratio is not None]
    return f"{'–'.join(dict.fromkeys(known))}\N{NO-BREAK SPACE}%" if known else "–"


def runs_table(data: StudyData) -> ReportTable:
    """How each run stands, and what it trained on."""
    heads = ("run", "state", "parameters", "tokens", "measured", "tokens per second", "trained on")
    speeds = dict(data.steps.group_by("run").agg(pl.col("tokens_per_second").median()).iter_rows())
    rows = [
        (
            run.run.id,
            run.status.state,
            count_text(run.run.parameters),
            f"{count_text(run.status.tokens)} of {count_text(run.run.tokens)}",
            f"{len(run.curve.tokens) if run.curve else 0} of {len(run.run.checkpoint_steps)}",
            count_text(speeds[run.run.id]) if speeds.get(run.run.id) else "–",
            run.status.device or "–",
        )
        for run in data.runs
    ]
    return ReportTable(heads, rows, "The study has no runs.")


DATA_ABOUT = (
    "What the study trains on, recorded at its first step. Epochs are how often a run sees a "
    "domain's text, over all runs; above one, repeated text bends the laws."
)


def data_table(data: StudyData) -> ReportTable:
    """Each domain with its tokens and epochs, the tokenizer, and the digests of sources."""
    heads = ("domain", "share", "documents", "training tokens", "epochs", "source", "tokenizer")
    record, runs = read_record(data.store.place), [run.run for run in data.runs]
    rows = []
    for name, domain in record.domains.items() if record else ():
        epochs = [record.epochs(run.tokens)[name] for run in runs] if record else []
        fewest, most = f"{min(epochs):.2f}", f"{max(epochs):.2f}"
        rows.append(
            (
                name,
                percent(domain.weight),
                f"{domain.documents:,}",
                count_text(domain.train_tokens),
                fewest if fewest == most else f"{fewest}–{most}",
                f"{domain.files} files, {domain.source[:12]}" if domain.source else "not recorded",
                record.tokenizer_fingerprint[:12] if record else "–",
            )
        )
    return ReportTable(heads, rows, "Nothing is recorded yet.")


def fits_table(data: StudyData) -> ReportTable:
    """The newest fit of each run and law."""
    heads = (
        "run",
        "law",
        "limit",
        "alpha",
        "points",
        "mean sq. error",
        "verdict on the law",
        "notes",
    )
    rows = [_fit_row(run, law) for run in data.runs for law in run.laws]
    empty = "No law has been fitted yet: that takes two measured checkpoints after the warm-up."
    return ReportTable(heads, rows, empty)


def _fit_row(run: ReportedRun, law: FittedLaw) -> tuple[str, ...]:
    row = law.row
    dropped = f" (and {row['dropped']} in the warm-up)" if row["dropped"] else ""
    return (
        run.run.id,
        f"{row['law']} ({row['stage']})",
        _limit(law),
        _parameter(row, "alpha"),
        f"{row['points']}{dropped}",
        "–" if row["mse"] is None else f"{row['mse']:.2e}",
        str(law.evidence.verdict),
        "; ".join(row["warnings"] or []) or "–",
    )


def _limit(law: FittedLaw) -> str:
    row = law.row
    low, high = row["limit_low"], row["limit_high"]
    if row["limit_activation_ratio"] is not None:
        return f"{percent(row['limit_activation_ratio'])} [{percent(low, high)}]"
    if low is None and high is None:
        return "not identified: the points bound it on neither side"
    side = f"above {percent(low)}" if high is None else f"below {percent(high)}"
    return f"not identified: the points only say {side}"


def verdicts_table(scored: list[Scored]) -> ReportTable:
    """What was said of the runs, newest first, and how it fared."""
    heads = ("run", "said at", "told", "the law then", "fared", "now")
    rows = [
        (
            each.entry["run"],
            f"{count_text(each.entry['known_tokens'])} tokens",
            told(each.entry),
            f"{each.entry['law']} {each.entry['law_verdict']}",
            each.score,
            each.later,
        )
        for each in reversed(scored)
    ]
    return ReportTable(heads, rows, "No verdict has been kept yet: `sparsing advise` keeps them.")


def _parameter(row: dict[str, Any], name: str) -> str:
    if name not in row["parameters"]:
        return "–"
    low, high = row["intervals"][name]
    bounds = f"[{_bound(low)}, {_bound(high)}]"
    if not row["identified"][name]:
        return f"not identified {bounds}" if (low, high) != (None, None) else "not identified"
    return f"{row['parameters'][name]:.3g} {bounds}"


def _bound(value: float | None) -> str:
    return "open" if value is None else f"{value:.3g}"


def measurements_table(data: StudyData) -> ReportTable:
    """The newest measured checkpoint of each run."""
    asked = data.store.study.measurement.p_percent
    heads = (
        "run",
        "at tokens",
        "stage",
        "activation ratio",
        "CETT",
        "dense loss",
        "sparse loss",
        f"perplexity rise (asked {asked:g} %)",
        "tokens measured",
    )
    newest = data.newest_measurements
    rows = [_measurement(newest[run.run.id]) for run in data.runs if run.run.id in newest]
    return ReportTable(heads, rows, "No checkpoint has been measured yet.")


def _measurement(row: dict[str, Any]) -> tuple[str, ...]:
    rise = row["ppl_rise_percent"]
    return (
        row["run"],
        count_text(row["tokens"]),
        row["stage"],
        percent(row["activation_ratio"]),
        f"{row['cett']:.3f}",
        _loss(row["dense_loss"]),
        _loss(row["sparse_loss"]),
        "–" if rise is None else f"{rise:.2f} %",
        f"{row['measured_tokens']:,}",
    )


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def failures_table(data: StudyData) -> ReportTable:
    """Every failure and notice that the store knows of, and how the run stands now."""
    told = (pl.col("state") == "failed") | pl.col("failure_kind").is_in(NOTICES)
    failed = changes_of_state(data.store).filter(told)
    now = {run.run.id: run.status.state for run in data.runs}
    rows = [
        (
            row["run"],
            str(row["attempt"]),
            f"{row['written_at']:%Y-%m-%d %H:%M} UTC",
            row["reason"] or "no reason was written",
            now.get(row["run"], "–"),
        )
        for row in failed.collect().iter_rows(named=True)
    ]
    return ReportTable(("run", "attempt", "when", "reason", "state now"), rows, "No run failed.")


def versions_table(data: StudyData) -> ReportTable:
    """Code that wrote the rows and this report, packages, and the machine that made the report."""
    devices = ", ".join(sorted({r.status.device for r in data.runs if r.status.device}))
    wrote = data.store.scan("runs").select("code_version").unique().collect()["code_version"]
    rows = [
        ("code that trained", ", ".join(sorted(wrote)) or "–"),
        ("code of this report", code_version()),
        ("Python", platform.python_version()),
        *((package, _version(package)) for package in PACKAGES),
        ("trained on", devices or "–"),
        ("report made on", _machine()),
    ]
    return ReportTable(("what", "version"), rows, "")


def _machine() -> str:
    memory = bytes_text(psutil.virtual_memory().total)
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, {memory} of memory"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed here"
