"""How a plan looks: a row for each run and what it costs, and the sum."""

from __future__ import annotations

from sparsing.study.display.table import Table, table
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
