"""The WSD learning-rate schedule: warm-up, stable, decay (paper section 3)."""

from __future__ import annotations

from sparsing.study.plan.runs import Run


def learning_rate_share(run: Run, step: int) -> float:
    """Share of the peak learning rate at optimizer step `step`, from 0.

    Linear warm-up to 1 over `warmup_steps`, then 1, then an exponential decay to 0.1 over the
    last `decay_steps` (MiniCPM's form).
    """
    if step < run.warmup_steps:
        return (step + 1) / run.warmup_steps
    into_decay = step - (run.steps - run.decay_steps) + 1
    if into_decay <= 0:
        return 1.0
    return 0.1 ** (into_decay / run.decay_steps)
