"""A finished study with all that the paper's figures ask for, as far as this version trains it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from report_stores import DOMAINS, small_study, write, write_training

from sparsing.analysis.refitting.refit import refit
from sparsing.study.plan.runs import Run, plan_runs
from sparsing.study.store.study_store import StudyStore

SCALES = ((32, 4), (48, 6), (64, 8), (96, 12))
"""d_h and layers of one width-depth ratio."""
RATIOS = ((40, 20), (52, 12), (80, 5), (104, 3), (128, 2))
"""Of as many parameters as (64, 8)."""
VOCABULARY = 300


def limit_of(run: Run) -> float:
    """The ratio at infinite data: rises with the width-depth ratio up to 16, then is flat."""
    return (
        0.06 - 0.002 * max(0.0, 16 - run.width_depth_ratio) + 0.002 * np.log(run.parameters / 1e5)
    )


def paper_store(root: Path) -> StudyStore:
    """Four scales of ReLU and SiLU at one width-depth ratio, and five ratios at one scale."""
    shapes = [{"d_h": width, "layers": depth, "heads": 2} for width, depth in SCALES]
    ratios = [{"scale": {"d_h": width, "layers": depth, "heads": 2}} for width, depth in RATIOS]
    study = small_study(
        axes={"activation": ["relu", "silu"], "scale": shapes},
        runs=ratios,
        tokens=8_192_000,
        checkpoints={"count": 24, "spacing": "log", "first_tokens": 100_000},
    )
    store = StudyStore.create(root, study)
    for run in plan_runs(study):
        write_training(store, run)
        _write_measurements(store, run)
        _write_pareto(store, run)
        write(store, "runs", run, [{"step": run.steps, "state": "done"}])
    refit(store, code_version="test")
    return store


def _ratio(run: Run, tokens: float) -> float:
    noise = 1e-4 * np.random.default_rng([run.d_h, run.layers, int(tokens)]).standard_normal()
    billions = tokens / 1e9
    if run.activation == "silu":
        return float(0.4 - 0.01 * (billions * 1e3) ** -0.5 + noise)
    return float(np.exp(-60 * billions**0.6 - 3.2) + limit_of(run) + noise)


def _write_measurements(store: StudyStore, run: Run) -> None:
    random = np.random.default_rng([run.d_h, run.layers])
    for step in run.checkpoint_steps:
        tokens = step * run.batch_tokens
        ratio = _ratio(run, tokens)
        shared = {"step": step, "tokens": tokens, "stage": "final"}
        measured = {"metric": "cett_ppl", "p_percent": 1.0, "cett": 0.2, "measured_tokens": 8192}
        measured |= {"activation_ratio": ratio}
        measured |= {"activation_ratio_low": ratio - 2e-4, "activation_ratio_high": ratio + 2e-4}
        write(store, "sparsity", run, [shared | measured], stream="final")
        if step == run.checkpoint_steps[-1]:
            frequencies = [
                shared
                | {"domain": domain, "layer": layer, "dead_ratio": 0.01}
                | {"frequency": random.beta(0.4 + number, 6, run.d_f).astype("float32")}
                for number, domain in enumerate((None, *DOMAINS))
                for layer in range(run.layers)
            ]
            write(store, "neurons", run, frequencies, stream="final")
            tokens_of = np.random.default_rng(0)
            words = [
                shared
                | {"token_id": token, "count": int(2 + 900 / (1 + token))}
                | {"activation_ratio": float(ratio * tokens_of.uniform(0.7, 1.3))}
                for token in range(VOCABULARY)
            ]
            write(store, "vocabulary", run, words, stream="final")


def _write_pareto(store: StudyStore, run: Run) -> None:
    step = run.checkpoint_steps[-1]
    rows = [
        {
            "step": step,
            "tokens": step * run.batch_tokens,
            "metric": metric,
            "parameter": parameter,
            "domain": None,
            "activation_ratio": float(0.9 * np.exp(-3 * parameter) / factor),
            "dense_loss": 2.0,
            "sparse_loss": 2.01,
            "ppl_rise_percent": float(100 * parameter**2.5),
            "measured_tokens": 8192,
        }
        for metric, factor in (("cett", 1.5), ("fat", 1.2), ("topk", 1.0))
        for parameter in (0.05, 0.1, 0.2, 0.4, 0.8)
    ]
    write(store, "pareto", run, rows, stream="final")
