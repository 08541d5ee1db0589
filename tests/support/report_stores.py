"""Stores of made-up studies for the tests of the report, written by the real writers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sparsing.analysis.refitting.refit import refit
from sparsing.study.definition.model import Study
from sparsing.study.plan.runs import Run, plan_runs
from sparsing.study.store.study_store import StudyStore

DOMAINS = ("code", "prose")

HOSTILE = (
    "<script>document.title='stolen'</script>",
    "<img src=x onerror=\"document.title='stolen'\">",
    "\"><svg onload=document.title='stolen'>",
    "' autofocus onfocus=document.title='stolen' x='",
    "</title><script>document.title='stolen'</script>",
    "{{ 7 * 7 }} {% raw %} ${7*7} #{7*7}",
    "javascript:document.title='stolen'//",
    "<iframe srcdoc=\"<script>parent.document.title='stolen'</script>\">",
    "<style>*{display:none}</style><base href=//evil.example>",
    'x="1"} 1\nsparsing_fake{a="\\',
)
AROUND = (
    "{}",
    "&{}",
    "]]>{}",
    "<!--{}",
    "\\{}",
    "</textarea>{}",
    "\u202e{}",
    "%3C{}",
    "\n{}",
    "`{}`",
)
INJECTIONS = [around.format(text) for text in HOSTILE for around in AROUND]
"""A hundred texts that would be markup, labels or code where they are not escaped."""


def small_study(**changes: Any) -> Study:
    """ReLU and SiLU, two seeds, two domains; the first of ten checkpoints is in the warm-up."""
    content = {
        "name": "small",
        "axes": {
            "activation": ["relu", "silu"],
            "scale": [{"d_h": 32, "layers": 4, "d_f": 80, "heads": 2}],
            "seed": [0, 1],
        },
        "tokens": 1_024_000,
        "data": {
            "domains": {name: {"kind": "python-stdlib"} for name in DOMAINS},
            "sequence_tokens": 128,
        },
        "optimization": {"batch_tokens": 1024, "warmup_tokens": 60_000},
        "checkpoints": {"count": 10, "spacing": "log", "first_tokens": 51_200},
    }
    return Study.model_validate(content | changes)


def ratio_of(run: Run, tokens: float) -> float:
    """Activation ratio of a run: falling for ReLU, rising for SiLU, with some noise."""
    share = (tokens / run.tokens) ** -0.5
    rng = np.random.default_rng([run.seed, run.d_h, run.layers, int(tokens)])
    noise = 1e-3 * rng.standard_normal() + 4e-3 * run.seed
    return float((0.06 + 0.02 * share if run.activation == "relu" else 0.4 - 0.04 * share) + noise)


def write_training(store: StudyStore, run: Run) -> None:
    """State, steps and validation losses of a run that trained to its end."""
    write(store, "runs", run, [{"step": 0, "state": "training", "device": "CPU, float32, ZeRO 0"}])
    steps = range(1, run.steps + 1, max(1, run.steps // 400))
    write(store, "steps", run, [_step(run, step) for step in steps])
    rows = [
        {
            "step": step,
            "tokens": step * run.batch_tokens,
            "path": f"checkpoints/{run.id}/{step}",
            "domain": domain,
            "validation_loss": 2.0 + (step / run.steps) ** -0.5 * 0.2,
        }
        for step in run.checkpoint_steps
        for domain in (None, *DOMAINS)
    ]
    write(store, "checkpoints", run, rows)


def _step(run: Run, step: int) -> dict[str, Any]:
    return {
        "step": step,
        "tokens": step * run.batch_tokens,
        "loss": 1.8 + 4 * step**-0.5,
        "learning_rate": 0.01,
        "tokens_per_second": 1e4,
        "step_seconds": 0.1,
    }


def write_measurements(
    store: StudyStore, run: Run, *, count: int | None = None, stage: str = "final"
) -> None:
    """Ratios by layer and domain, and neurons, of a run's first `count` checkpoints."""
    steps = run.checkpoint_steps[:count]
    sparsity = [row for step in steps for row in _sparsity(run, step, stage)]
    write(store, "sparsity", run, sparsity, stream=stage)
    rng = np.random.default_rng(run.seed)
    neurons = [
        {
            "step": step,
            "tokens": step * run.batch_tokens,
            "stage": stage,
            "domain": None,
            "layer": layer,
            "frequency": rng.beta(0.4, 4, run.d_f).astype("float32"),
            "dead_ratio": 0.02,
        }
        for step in steps
        for layer in range(run.layers)
    ]
    write(store, "neurons", run, neurons, stream=stage)


def _sparsity(run: Run, step: int, stage: str) -> list[dict[str, Any]]:
    tokens = step * run.batch_tokens
    ratio = ratio_of(run, tokens)
    shared = {
        "step": step,
        "tokens": tokens,
        "stage": stage,
        "metric": "cett_ppl",
        "p_percent": 1.0,
        "cett": 0.13,
        "measured_tokens": 8192,
        "measure_seconds": 0.5,
    }
    losses = {"dense_loss": 2.0, "sparse_loss": 2.01, "ppl_rise_percent": 1.005}
    rows: list[dict[str, Any]] = []
    for i, domain in enumerate((None, *DOMAINS)):
        place = shared | {"domain": domain}
        rows.append(place | losses | {"activation_ratio": ratio})
        for layer in range(run.layers):
            uneven = 1 + 0.2 * np.sin(layer + i)
            rows.append(place | {"layer": layer, "activation_ratio": ratio * uneven})
    return rows


def write(
    store: StudyStore, table: str, run: Run, rows: list[dict[str, Any]], stream: str = "main"
) -> None:
    """Append rows of a run, durably."""
    with store.writer(table, run=run.id, attempt=1, stream=stream) as writer:
        writer.append(writer.next_seq, rows)


def finished_store(root: Path, **changes: Any) -> StudyStore:
    """A store of a small study that is done, with its fits."""
    store = StudyStore.create(root, small_study(**changes))
    for run in plan_runs(store.study):
        write_training(store, run)
        write_measurements(store, run)
        write(store, "runs", run, [{"step": run.steps, "state": "done"}])
    refit(store, code_version="test")
    return store


def hostile_store(root: Path) -> StudyStore:
    """A hundred failed runs; each has an injection as its reason and device, and all are in the
    description."""
    seeds = list(range(len(INJECTIONS) // 2))
    content = small_study().model_dump(include={"axes"})["axes"] | {"seed": seeds}
    made = StudyStore.create(root, small_study(axes=content, description=" ".join(INJECTIONS)))
    for run, text in zip(plan_runs(made.study), INJECTIONS, strict=True):
        write(made, "runs", run, [{"step": 1, "state": "failed", "reason": text, "device": text}])
    return made
