"""A run of a study as a Hugging Face folder: model, tokenizer, thresholds, and a card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from sparsing.actors.data.study_data import prepared_of
from sparsing.actors.models.checkpoint_read import load_model
from sparsing.actors.models.to_hugging_face import save_for_transformers
from sparsing.actors.models.transformer import Transformer
from sparsing.kernels.ffn import GatedFFN, out_norms
from sparsing.kernels.thresholds import save_thresholds
from sparsing.study.errors import NotFoundError, SparsingError
from sparsing.study.plan.runs import Run, find_run, plan_runs
from sparsing.study.store.checkpoint_folders import checkpoint_folder, complete_steps
from sparsing.study.store.study_store import StudyStore

THRESHOLDS = "thresholds.safetensors"
CARD = "README.md"


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    step: int
    thresholds: bool
    """Whether the checkpoint was measured, so that there are thresholds."""


def export_run(store: StudyStore, run_id: str, folder: Path, step: int | None = None) -> Exported:
    """Write the newest checkpoint of a run, or that at a step, to a folder that is new.

    Raises:
        NotFoundError: no such run, or no complete checkpoint there.
        SparsingError: the folder is there and not empty.
    """
    run = find_run(plan_runs(store.study), run_id, store.study_id)
    steps = complete_steps(store.path, run.id)
    if not steps or (step is not None and step not in steps):
        there = f"there are steps {', '.join(map(str, steps))}" if steps else "there is none yet"
        raise NotFoundError(f"{run.id} has no complete checkpoint at step {step}; {there}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SparsingError(f"{folder} is there and not empty; give a folder that is not there yet")
    chosen = steps[-1] if step is None else step
    prepared = prepared_of(store)
    model = load_model(checkpoint_folder(store.path, run.id, chosen))
    folder.mkdir(parents=True, exist_ok=True)
    save_for_transformers(model, prepared.tokenizer, folder, positions=prepared.sequence_tokens)
    measured = _measurement(store, run, chosen)
    if measured is not None:
        _write_thresholds(model, measured, folder / THRESHOLDS)
    (folder / CARD).write_text(_card(store, run, chosen, measured), encoding="utf-8")
    return Exported(folder, chosen, measured is not None)


def _measurement(store: StudyStore, run: Run, step: int) -> pl.DataFrame | None:
    """Rows of `sparsity` of a checkpoint on the mixture: its layers, then their mean."""
    rows = store.scan("sparsity", run.id).filter(
        pl.col("step") == step, pl.col("domain").is_null(), pl.col("metric") == "cett_ppl"
    )
    found = rows.collect().unique(["stage", "layer"], keep="last", maintain_order=True)
    for stage in ("final", "live"):
        of_stage = found.filter(stage=stage).sort("layer", nulls_last=True)
        if of_stage.height == run.layers + 1 and of_stage["threshold"][:-1].null_count() == 0:
            return of_stage
    return None


def _write_thresholds(model: Transformer, measured: pl.DataFrame, path: Path) -> None:
    layers = measured.filter(pl.col("layer").is_not_null())
    ffns = [module for module in model.modules() if isinstance(module, GatedFFN)]
    pairs = zip(layers["threshold"].to_list(), ffns, strict=True)
    found = [(eps, out_norms(ffn.w_out.weight)) for eps, ffn in pairs]
    save_thresholds(path, found, "cett_ppl", measured["cett"][0])


def _card(store: StudyStore, run: Run, step: int, measured: pl.DataFrame | None) -> str:
    """The model card, from the store alone."""
    facts: dict[str, Any] = {
        "study": store.study_id,
        "run": run.id,
        "step": f"{step} of {run.steps}",
        "training tokens": f"{step * run.batch_tokens:,}",
        "non-embedding parameters": f"{run.parameters:,}",
        "shape": f"d_h {run.d_h}, layers {run.layers}, d_f {run.d_f}, heads {run.heads}",
        "activation": run.activation,
        "context": f"{run.sequence_tokens} tokens",
    }
    loss = _validation_loss(store, run, step)
    if loss is not None:
        facts["validation loss"] = f"{loss:.4f} nats per token, dense, on the study's mixture"
    if measured is not None:
        mean = measured.row(-1, named=True)
        interval = ""
        if None not in (mean["activation_ratio_low"], mean["activation_ratio_high"]):
            ends = (100 * mean["activation_ratio_low"], 100 * mean["activation_ratio_high"])
            interval = f" [{ends[0]:.2f}, {ends[1]:.2f}]"
        facts["activation ratio"] = (
            f"{100 * mean['activation_ratio']:.2f} %{interval} (CETT-PPL-{mean['p_percent']:g} %, "
            f"CETT {mean['cett']:.4g}, {mean['stage']}, 95 % interval)"
        )
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    thresholds = (
        f"\n`{THRESHOLDS}` holds each neuron's threshold: those with a smaller intermediate value "
        "are left out.\n\n    sparsing generate . --prompt TEXT --thresholds "
        f"{THRESHOLDS}\n"
        if measured is not None
        else "\nThis checkpoint was not measured, so there are no thresholds.\n"
    )
    domains = ", ".join(store.study.data.domains)
    return (
        f"---\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n\n# {run.id}\n\n"
        f"{store.study.description or 'A model of a scaling study of activation sparsity.'}\n\n"
        f"| | |\n|---|---|\n{rows}\n\n"
        "A muP Transformer (MiniCPM's manner) in Granite's architecture, which has muP's factors "
        f"in its configuration. Trained on: {domains}. Made by `sparsing export`; it was trained "
        f"to be measured, and is no assistant.\n{thresholds}"
    )


def _validation_loss(store: StudyStore, run: Run, step: int) -> float | None:
    rows = store.scan("checkpoints", run.id).filter(
        pl.col("step") == step, pl.col("domain").is_null()
    )
    found = rows.select("validation_loss").collect()
    return found.item(-1, 0) if len(found) else None
