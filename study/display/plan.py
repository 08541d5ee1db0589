"""How a plan looks: a row for each run and what it costs, and the sum."""

from __future__ import annotations

import os
from typing import Any

from sparsing.study.display.table import Table, table
from sparsing.study.plan.estimate import Estimate, RunEstimate
from sparsing.study.plan.runs import Plan
from sparsing.study.units import bytes_text, count_text, hours_text

NUMBERS = (
    *("d_h x layers", "parameters", "+ embedding", "tokens", "batch", "steps"),
    *("FLOPs", "GPU time", "checkpoints", "tables"),
)


def plan_table(made: Plan) -> Table:
    """A row for each run; the note below is the sum."""
    shown = table(("run", *NUMBERS), right=NUMBERS, title=f"study {made.study_id}")
    for cost in made.costs:
        run = cost.run
        shown.add(
            run.id,
            f"{run.d_h} x {run.layers}",
            count_text(run.parameters),
            count_text(cost.embedding_parameters),
            count_text(run.tokens),
            count_text(run.batch_tokens),
            str(run.steps),
            f"{cost.flops:.3g}",
            hours_text(cost.gpu_hours),
            f"{len(run.checkpoint_steps)}: {bytes_text(cost.checkpoint_bytes)}",
            bytes_text(cost.table_bytes),
        )
    shown.notes = ["", _summary(made)]
    return shown


def _summary(made: Plan) -> str:
    total = made.total
    runs = "1 run" if len(made.costs) == 1 else f"{len(made.costs)} runs"
    return (
        f"{runs}, {count_text(total['tokens'])} tokens, "
        f"{total['flops']:.3g} FLOPs: {hours_text(total['gpu_hours'])} of one A800 at "
        f"{made.utilization:.0%} of its peak; checkpoints {bytes_text(total['checkpoint_bytes'])}, "
        f"tables about {bytes_text(total['table_bytes'])}"
    )


ESTIMATED = (
    *("memory", "micro batch", "fits up to", "step", "tokens/s each", "MFU", "time", "saving"),
    *("device time", "measuring", "lost"),
)


def estimate_table(made: Estimate) -> Table:
    """A row for each run: memory and speed of one device, and what the run takes."""
    title = f"on {made.device}, {made.source}"
    shown = table(("run", *ESTIMATED), right=ESTIMATED, title=title)
    for run in made.runs:
        shown.add(
            run.run,
            bytes_text(run.memory.total) + ("" if run.fits else " !"),
            str(run.micro_sequences),
            str(run.fitting_sequences or "none"),
            f"{run.step.total:.3g} s",
            count_text(run.tokens_per_second_per_shard),
            "-" if run.mfu is None else f"{run.mfu:.0%}",
            hours_text(run.train_seconds / 3600),
            f"{bytes_text(run.checkpoint_bytes_per_second)}/s",
            hours_text(run.shard_hours),
            hours_text(run.measuring_hours),
            hours_text(run.lost_hours),
        )
    shown.notes = ["", *(_memory_note(run) for run in made.runs if not run.fits), _time_note(made)]
    return shown


def _memory_note(run: RunEstimate) -> str:
    """Why a run does not fit, and what would."""
    parts = {name: size for name, size in vars(run.memory).items() if size >= 5e7}
    said = ", ".join(f"{name} {bytes_text(size)}" for name, size in parts.items())
    remedy = "use more shards or larger devices"
    if run.fitting_sequences:
        remedy = f"set optimization.micro_batch_sequences = {run.fitting_sequences}"
    return f"! {run.run} does not fit: {said}; {remedy}"


def _time_note(made: Estimate) -> str:
    total = {
        name: sum(getattr(run, name) for run in made.runs)
        for name in ("shard_hours", "measuring_hours", "lost_hours")
    }
    wall = hours_text(made.wall_seconds / 3600)
    return (
        f"{made.devices} x {made.device}: {wall} from start to end, "
        f"of which {hours_text(made.prepare_seconds / 3600)} to prepare data; device time "
        f"{hours_text(total['shard_hours'])}, and about {hours_text(total['measuring_hours'])} to "
        f"measure and {hours_text(total['lost_hours'])} lost to failures"
    )


DATA = ("files", "on disk", "text", "tokens", "wanted by the longest run", "epochs")


def data_table(document: dict[str, Any]) -> Table:
    """What each domain has and what is wanted of it, from the document of a look at the data."""
    shown = table(("domain", *DATA), right=DATA, title="data, estimated from a sample")
    for domain in document["domains"]:
        here = domain["problem"] is None
        epochs = domain["epochs"]
        shown.add(
            domain["domain"],
            f"{domain['files']:,}" if here else "not here",
            bytes_text(domain["file_bytes"]) if here else "-",
            bytes_text(domain["text_bytes"]) if here else "-",
            count_text(domain["tokens"]) if here else "-",
            count_text(domain["tokens_wanted"]),
            "-" if epochs is None else f"{epochs:.2f}",
        )
    hours, cores = document["core_hours"], os.cpu_count() or 1
    cluster = document["cluster_cores"]
    wanted = " where a source is not here, as much as is wanted;" if document["assumed"] else ""
    shown.notes = [
        "",
        f"preparation:{wanted} {bytes_text(document['text_bytes'])} of text, "
        f"{count_text(document['tokens'])} tokens, {bytes_text(document['disk_bytes'])} of disk; "
        f"{hours_text(hours)} of a core: {hours_text(hours / cores)} on {cores} cores, "
        f"{hours_text(hours / cluster)} on {cluster} (ten nodes)",
    ]
    return shown
