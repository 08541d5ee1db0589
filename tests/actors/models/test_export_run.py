"""A run goes out by one command: model, tokenizer, thresholds, card."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from stores import checkpoint_row, sparsity_row, tiny_store, write_rows

from sparsing.actors.data.prepare import prepare
from sparsing.actors.data.prepared import PreparedData
from sparsing.actors.models.transformer import Transformer
from sparsing.actors.training.checkpoint_write import write_marker
from sparsing.actors.training.start import model_config
from sparsing.kernels.activity import Cett, out_norms
from sparsing.kernels.thresholds import load_thresholds
from sparsing.study.commands.main import cli
from sparsing.study.errors import NotFoundError, SparsingError
from sparsing.study.plan.runs import plan_runs
from sparsing.study.store.checkpoint_folders import checkpoint_folder
from sparsing.study.store.checkpoint_marker import Checkpoint
from sparsing.study.store.study_store import StudyStore

STEP = 64


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyStore, PreparedData, Transformer]:
    """A store with one measured checkpoint of its first run."""
    root = tmp_path_factory.mktemp("export")
    text = root / "text.jsonl"
    random = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz "))
    documents = ["".join(random.choice(letters, 400)) for _ in range(120)]
    text.write_text("".join(json.dumps({"text": each}) + "\n" for each in documents))
    store = tiny_store(
        root / "store",
        data={
            "domains": {"web": {"kind": "jsonl", "path": str(text)}},
            "tokenizer": {"kind": "bytes"},
            "sequence_tokens": 16,
            "validation": {"tokens": 2048},
        },
    )
    data = prepare(store.study, store.path.parent / "data")
    run = plan_runs(store.study)[0]
    model = Transformer(model_config(store.study, run, data.vocabulary_size)).initialize(0)
    folder = checkpoint_folder(store.path, run.id, STEP)
    folder.mkdir(parents=True)
    weights = {f"weight/{name}": tensor for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "shard-0.safetensors")
    marker = Checkpoint(
        run=run.id,
        attempt=1,
        step=STEP,
        tokens=STEP * run.batch_tokens,
        files={"shard-0.safetensors": (folder / "shard-0.safetensors").stat().st_size},
        config=asdict(model.config),
        code_version="test",
        save_seconds=0.0,
    )
    write_marker(folder, marker)
    rows = [sparsity_row(STEP, 0.3, layer=i, threshold=0.01 * (i + 1)) for i in range(run.layers)]
    write_rows(store, "sparsity", run.id, [*rows, sparsity_row(STEP, 0.3)], stream="live")
    write_rows(store, "checkpoints", run.id, [checkpoint_row(STEP, validation_loss=2.5)])
    return store, data, model


def export(store: StudyStore, *words: str):
    root = str(store.path.parent)
    return CliRunner().invoke(cli, ["export", "tiny", *words, "--to", "hf", "--store", root])


def test_a_run_is_a_folder_that_transformers_loads(made, tmp_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    store, data, model = made
    run = plan_runs(store.study)[0]
    done = export(store, run.id, str(tmp_path / "out"), "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.strip().splitlines()[-1])["step"] == STEP
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    text = AutoTokenizer.from_pretrained(tmp_path / "out")("word7 and 3", return_tensors="pt")
    assert text["input_ids"][0].tolist() == data.tokenizer.encode(["word7 and 3"])[0].tolist()
    with torch.no_grad():
        ours = model.eval()(text["input_ids"])
        torch.testing.assert_close(theirs(**text).logits, ours, atol=1e-4, rtol=1e-4)
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(each in card for each in (run.id, store.study_id, "2.5000", "30.00 %"))


def test_its_thresholds_have_the_masks_of_the_measurement(made, tmp_path: Path):
    store, _, model = made
    run = plan_runs(store.study)[0]
    assert export(store, run.id, str(tmp_path / "out")).exit_code == 0
    found = load_thresholds(tmp_path / "out" / "thresholds.safetensors")
    for number, (layer, rule) in enumerate(zip(model.layers, found, strict=True)):
        norms = out_norms(layer.ffn.w_out.weight)
        x = torch.randn(50, model.config.d_h, generator=torch.Generator().manual_seed(number))
        with torch.no_grad():
            gate = layer.ffn.sigma(layer.ffn.w_gate(x))
            intermediate = layer.ffn.intermediate(x)
        eps = Cett(torch.tensor(0.01 * (number + 1)).item())
        kept = rule.active(gate, intermediate, norms)
        assert torch.equal(kept, eps.active(gate, intermediate, norms))


def test_what_cannot_be_exported_is_said(made, tmp_path: Path):
    store, _, _ = made
    first, other = plan_runs(store.study)
    for words, kind in (
        (["no-such-run", str(tmp_path / "a")], NotFoundError),
        ([other.id, str(tmp_path / "b")], NotFoundError),
        ([first.id, str(tmp_path / "c"), "--step", "7"], NotFoundError),
        ([first.id, str(tmp_path)], SparsingError),
    ):
        (tmp_path / "taken").touch()
        refused = export(store, *words)
        assert isinstance(refused.exception, kind), words
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]
